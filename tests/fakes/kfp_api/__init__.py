"""A stateful fake of the Kubeflow Pipelines API server, ``/apis/v2beta1``, over real HTTP.

It follows the server's code (kubeflow/pipelines, ``backend/src/apiserver``) where the swagger is silent: what is
refused and how, which state follows which, what a filter sees, how pages go on. Comments name the upstream file
that a rule comes from. What upstream reads into protocol buffers is checked here against the models of
``kfp_server_api``. MySQL compares text without regard to case, this fake exactly; nothing here starts a pod.
"""

from .faults import Fault, LoginPage, Reset, Status, Timeout, Truncated
from .server import FakeKfpApi, Request

__all__ = ["FakeKfpApi", "Fault", "LoginPage", "Request", "Reset", "Status", "Timeout", "Truncated"]
