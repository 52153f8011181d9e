"""What a step installs, and how the data plane is watched."""

import sysconfig
from urllib.parse import quote

import pytest
from llmops_components.local import environment_keys, installed
from llmops_components.local.environment_keys import key_of
from llmops_components.local.installed import DataPlaneChanged
from llmops_components.local.installs import (
    installs_of,
    is_written_for_data_plane,
    without_installs,
    without_secrets,
)

COMPONENT = ["sh", "-ec", "_KFP_RUNTIME=true python3 -m kfp.dsl.executor_main --component", "def f(): ..."]
KFP = "PIP_DISABLE_PIP_VERSION_CHECK=1 python3 -m pip install --quiet --no-warn-script-location "
HARNESS = "'kfp==2.14.3' '--no-deps' 'typing-extensions>=3.7.4,<5; python_version<\"3.9\"'"
HARNESS_WORDS = ["kfp==2.14.3", "--no-deps", 'typing-extensions>=3.7.4,<5; python_version<"3.9"']


@pytest.mark.parametrize(
    ("script", "installs"),
    [
        (f'\n{KFP}{HARNESS} && "$0" "$@"\n', [HARNESS_WORDS]),
        (
            f"\n{KFP}{HARNESS}  &&  python3 -m pip install --quiet --no-warn-script-location 'pandas==2.2.0' 'x[y]' "
            '&& "$0" "$@"\n',
            [HARNESS_WORDS, ["pandas==2.2.0", "x[y]"]],
        ),
        (
            f"{KFP}--index-url https://i/simple --trusted-host https://i/simple 'yapf'  &&  \n"
            'tmp=$(mktemp -d)\npython3 -m venv "$tmp/venv" --system-site-packages\n. "$tmp/venv/bin/activate"\n '
            f'python3 -m pip install --quiet --index-url https://i/simple {HARNESS} && "$0" "$@"\n',
            [
                ["--index-url", "https://i/simple", "--trusted-host", "https://i/simple", "yapf"],
                ["--index-url", "https://i/simple", *HARNESS_WORDS],
            ],
        ),
        (f"({KFP}'a==1' || {KFP}'a==1' --user) && \"$0\" \"$@\"", [["a==1"]]),
    ],
)
def test_installs_are_read_from_what_the_compiler_writes(script, installs):
    command = ["sh", "-c", script, *COMPONENT]
    assert installs_of(command) == installs
    assert without_installs(command) == COMPONENT
    assert not is_written_for_data_plane(command)


def test_component_of_this_package_installs_nothing():
    command = [*COMPONENT[:3], "from llmops_components import step"]
    assert installs_of(command) == []
    assert without_installs(command) == command
    assert is_written_for_data_plane(command)
    assert not is_written_for_data_plane(COMPONENT)


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("--index-url https://user:p@ss@host/simple?token=t#x a", "--index-url https://host/simple#x a"),
        ("tool @ git+https://token@host/tool.git@v1", "tool @ git+https://host/tool.git@v1"),
        ("pandas==2.2.0", "pandas==2.2.0"),
    ],
)
def test_secrets_of_addresses_are_not_shown(text, shown):
    assert without_secrets(text) == shown


def test_what_was_changed_in_the_data_plane_is_named(tmp_path, monkeypatch):
    monkeypatch.setattr(sysconfig, "get_path", lambda name: str(tmp_path))
    for name in ("kfp-2.17.0.dist-info", "datasets-5.2.0.dist-info", "trl-1.16.0.dist-info"):
        (tmp_path / name).mkdir()
    before = installed.snapshot()
    installed.check_unchanged(before, "step")
    (tmp_path / "kfp-2.17.0.dist-info").rename(tmp_path / "kfp-2.14.3.dist-info")
    (tmp_path / "pandas-1.0.dist-info").mkdir()
    with pytest.raises(
        DataPlaneChanged,
        match=r"changed while step inner/step ran: gone: kfp 2.17.0; new: kfp 2.14.3, pandas 1.0\. Every run starts from",
    ):
        installed.check_unchanged(before, "inner/step")


def test_package_installed_again_in_the_same_version_is_noticed(tmp_path, monkeypatch):
    monkeypatch.setattr(sysconfig, "get_path", lambda name: str(tmp_path))
    package = tmp_path / "kfp-2.17.0.dist-info"
    package.mkdir()
    before = installed.snapshot()
    (package / "RECORD").write_text("")
    with pytest.raises(DataPlaneChanged, match=r"new: kfp 2.17.0"):
        installed.check_unchanged(before, "step")


@pytest.mark.parametrize(
    "wish",
    [
        "{}",
        "{}[extra]",
        "lib @ file://{}",
        "file://{}",
        "lib @ file://localhost{}#egg=lib ; python_version > '3'",
    ],
)
@pytest.mark.parametrize("name", ["lib", "my lib-1.0-py3-none-any.whl"])
def test_what_was_changed_on_this_machine_is_installed_anew(tmp_path, wish, name):
    file = path = tmp_path / name
    if name == "lib":
        (path / "src/build").mkdir(parents=True)
        (path / "pyproject.toml").touch()
        file = path / "src/lib.py"
    file.write_text("one")
    place = quote(str(path)) if "file:" in wish else str(path)
    installs = [["pandas", wish.format(place)]]
    before = key_of(installs)
    if name == "lib":
        (path / "src/build/lib.py").write_text("made by pip")
    assert key_of(installs) == before
    file.write_text("another")
    assert key_of(installs) != before


@pytest.mark.parametrize("wish", ["lib @ file:./lib.whl", "file:lib.whl", "--find-links=file:./lib.whl"])
def test_address_of_a_place_below_the_working_directory_counts(tmp_path, monkeypatch, wish):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "lib.whl").write_text("one")
    before = key_of([[wish]])
    (tmp_path / "lib.whl").write_text("another")
    assert key_of([[wish]]) != before


def test_other_words_name_nothing_on_this_machine(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "pandas").mkdir()
    for word in (
        "pandas",
        "--no-deps",
        "https://host/x.whl",
        "git+ssh://host/x",
        "/no/such",
        "a" * 5000 + "/b",
        "~nobody-here/x",
    ):
        assert environment_keys._path_in(word) is None
