"""What went wrong in the bucket that MLflow keeps its files in, where its server lets every client go there by itself."""

from __future__ import annotations

import re

from llmops_components.errors import ComponentError, SettingError, UnavailableError

_SAID = re.compile(
    r"An error occurred \((?P<code>\w+)\) when calling the \w+ operation(?: \([^)]*\))?: (?P<words>.*)"
)
_OF_FILES = re.compile(
    r"failures occurred while downloading one or more artifacts from (?P<words>s3:.*)"
)  # MLflow's words, without a cause
# Of S3 and of HTTP, where the answer has no content: whatever else is asked, the answer stays the same.
_FINAL = re.compile(
    r"AccessDenied|AllAccessDisabled|AuthorizationHeaderMalformed|ExpiredToken|Forbidden|IllegalLocationConstraintException|Invalid\w+|"
    r"NoSuch\w+|PermanentRedirect|SignatureDoesNotMatch|TemporaryRedirect|(?:30|40)[0-7]"
)


def bucket_problem(error: BaseException) -> ComponentError | None:
    """An error of ours for one that came from S3's client; None for any other.

    Args:
        error: What MLflow or the client raised.
    """
    raised = _from_client(error)
    text = " ".join(str(raised or error).split())
    said = _SAID.search(text)
    if raised is None and said is None and (files := _OF_FILES.search(text)):
        return _unavailable(files["words"])
    if raised is None and said is None:
        return None
    code = said["code"] if said else type(raised).__name__
    words = f"{code}: {said['words']}" if said else text
    if _FINAL.fullmatch(code) or "Credentials" in code:
        return SettingError(
            f"MLflow's bucket cannot be used: {words[:300].rstrip('.')}. This server has its clients read and write there themselves: give the step "
            "AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY, AWS_DEFAULT_REGION and, for a store that is not Amazon's, AWS_ENDPOINT_URL."
        )
    return _unavailable(words)


def _unavailable(words: str) -> UnavailableError:
    return UnavailableError(
        f"MLflow's bucket did not answer: {words[:300].rstrip('.')}. Check the store, AWS_ENDPOINT_URL and the step's network, then run this step again."
    )


def _from_client(error: BaseException) -> BaseException | None:
    """The innermost error of S3's client among those that led to one."""
    found, seen = None, 0
    current: BaseException | None = error
    while current is not None and seen < 20:
        if type(current).__module__.partition(".")[0] in ("boto3", "botocore"):
            found = current
        current, seen = current.__cause__ or current.__context__, seen + 1
    return found
