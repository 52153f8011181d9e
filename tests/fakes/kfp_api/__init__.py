"""A stateful fake of the Kubeflow Pipelines API server, ``/apis/v2beta1``, over real HTTP.

It follows the server's code (kubeflow/pipelines, ``backend/src/apiserver``) where the swagger is silent: what is
refused and how, which state follows which, what a filter sees, how pages go on. Comments name the upstream file
that a rule comes from. What upstream reads into protocol buffers is checked here against the models of
``kfp_server_api``. Text is compared as MariaDB does it. What a server of version 2.17 was recorded to answer, in
``tests/recorded/kfp-exchanges.json``, is what this one answers; nothing here starts a pod.
"""

from .faults import Fault, LoginPage, Reset, Status, Timeout, Truncated
from .server import FakeKfpApi, Request
from .state import User

__all__ = ["FakeKfpApi", "Fault", "LoginPage", "Request", "Reset", "Status", "Timeout", "Truncated", "User"]
