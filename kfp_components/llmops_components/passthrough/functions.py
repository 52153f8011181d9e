"""Functions of users, named ``module:function``.

Their module has to be allowed by whoever runs the component, in an environment variable, mostly ``LLMOPS_ALLOWED_CODE``: an argument alone
never chooses the code that runs.
"""

from __future__ import annotations

import importlib
import re
from collections.abc import Callable
from typing import Any

from llmops_components.errors import SettingError, check_known
from llmops_components.passthrough.code import ALLOWED_ENVIRONMENT, is_allowed

_FUNCTION = re.compile(r"(?P<module>[A-Za-z_]\w*(\.[A-Za-z_]\w*)*):(?P<function>[A-Za-z]\w*)")


def named_function(name: str, argument: str, variable: str = ALLOWED_ENVIRONMENT) -> Callable[..., Any]:
    """The function that a user names.

    Args:
        name: ``module:function``.
        argument: What it came in, for messages.
        variable: Names the modules that are allowed.

    Raises:
        SettingError: It does not name a function, or one that is not allowed here.
    """
    module_name, function_name = check_named(name, argument, variable)
    try:
        module = importlib.import_module(module_name)
    except ImportError as error:
        raise SettingError(
            f"{argument}: the module {module_name} cannot be imported: {error}. Install its package where the component runs."
        ) from error
    if (function := getattr(module, function_name, None)) is None:
        check_known(
            [function_name], [n for n in vars(module) if not n.startswith("_")], f"name in {module_name}"
        )
    if not callable(function) or not is_allowed(getattr(function, "__module__", ""), variable):
        # A module also holds what it imported: that was not allowed.
        raise SettingError(
            f"{argument}: {module_name}:{function_name} is not a function that {module_name} defines."
        )
    found: Callable[..., Any] = function
    return found


def check_named(name: str, argument: str, variable: str = ALLOWED_ENVIRONMENT) -> tuple[str, str]:
    """The module and the name of a function that a user names; raises like :func:`named_function`, and imports nothing.

    Args:
        name: ``module:function``.
        argument: What it came in, for messages.
        variable: Names the modules that are allowed.
    """
    match = _FUNCTION.fullmatch(name)
    if not match:
        raise SettingError(
            f"{argument}: {name!r:.80} does not name a function. Write it as module:function, for example my_package.rows:shorten."
        )
    if not is_allowed(match["module"], variable):
        raise SettingError(
            f"{argument}: functions of the module {match['module']} are not allowed here. Whoever runs the component allows "
            f"them by naming the module in the environment variable {variable}."
        )
    return match["module"], match["function"]
