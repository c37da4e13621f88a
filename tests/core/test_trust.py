"""Trust: a planted fusion.toml takes no key, hides no price and removes no run until the user trusts it."""

import os
import pty
import subprocess
import sys
from collections.abc import Iterator
from contextlib import suppress
from decimal import Decimal
from pathlib import Path

import pytest

from fusion import Fusion, ScriptedModel, Settings
from fusion.client.history import History
from fusion.core.config.trust import Trust, digest_of, project_files, unfit
from tests.cli.conftest import Command, environment
from tests.cli.conftest import command as command  # a fixture
from tests.provider import Answer, Provider

ONE = "stages: {answer: {kind: generate, role: bulk, prompt: Say hello.}}\noutput: answer\n"
ENDPOINT = '[endpoints.gpt]\nmodel = "m"\napi_base = "{url}"\nkey_env = "OPENAI_API_KEY"\n'
ROLES = '[roles]\nfrontier = "gpt"\nbulk = "gpt"\n'
KEY = "sk-of-the-victim-0123456789"


@pytest.fixture
def clone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cloned folder, which is the working directory, in the user's home folder."""
    folder = tmp_path / "home" / "clone"
    folder.mkdir(parents=True)
    (folder / "one.yaml").write_text(ONE)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    monkeypatch.chdir(folder)
    return folder


@pytest.fixture
def attacker() -> Iterator[Provider]:
    with Provider(Answer("stolen")) as running:
        yield running


def planted(folder: Path, text: str) -> Path:
    path = folder / "fusion.toml"
    path.write_text(text)
    return path


# Tables that a planted file may hold.

BOUND = {
    "endpoints": ENDPOINT.format(url="http://127.0.0.1:9/v1"),
    "prices of zero": '[prices."openai/gpt-5.6"]\ninput = 0\noutput = 0\n',
    "path of the store": '[store]\npath = "/nowhere/theirs.db"\n',
    "retention": "[store]\nretention = 1\n",
    "content of the store": '[store]\ncontent = "off"\n',
    "budgets": "[budgets.nightly]\nusd = 1000\n",
    "size of the cache": "[store]\ncache_mb = 0\n",
}


@pytest.mark.parametrize("text", BOUND.values(), ids=BOUND)
def test_a_planted_table_is_ignored_and_named_in_one_line(clone: Path, command: Command, text: str) -> None:
    path = planted(clone, text)
    before = Settings.from_environment(start=clone.parent)
    found = Settings.from_environment()
    assert (found.endpoints, found.prices, found.store) == (before.endpoints, before.prices, before.store)
    table = "[" + text[1:].partition("]")[0].partition(".")[0] + "]"
    ran = command("runs", "list")
    (line, *_) = ran.err.splitlines()
    assert line == f"fusion: {path}: {table} is ignored until you trust it: fusion trust {path}"


def test_a_planted_endpoint_gets_no_key(clone: Path, attacker: Provider, command: Command) -> None:
    planted(clone, ENDPOINT.format(url=attacker.url) + ROLES)
    ran = command("run", "one.yaml", "--no-store")
    assert ran.code == 2
    assert "[endpoints] is ignored until you trust it" in ran.err
    assert "no provider is known for the model 'gpt'" in ran.err
    assert attacker.requests == []


def test_a_trusted_endpoint_is_asked_until_its_table_changes(
    clone: Path, attacker: Provider, command: Command
) -> None:
    path = planted(clone, ENDPOINT.format(url=attacker.url) + ROLES)
    ran = command("trust")
    assert (ran.code, ran.out.splitlines()) == (
        0,
        [
            f"trusted {path}",
            f"  endpoint 'gpt': prompts and the key of OPENAI_API_KEY go to {attacker.url}",
        ],
    )
    ran = command("run", "one.yaml", "--no-store")
    assert (ran.code, ran.out) == (0, "stolen\n")
    assert len(attacker.requests) == 1
    path.write_text(path.read_text() + "[defaults]\nseed = 5\n")  # which needs no trust
    assert command("run", "one.yaml", "--no-store").code == 0
    path.write_text(path.read_text().replace('model = "m"', 'model = "other"'))
    ran = command("run", "one.yaml", "--no-store")
    assert (ran.code, "is ignored until you trust it" in ran.err) == (2, True)
    assert command("trust", "--list").out.split() == ["changed", str(path)]


def test_profile_roles_defaults_and_limits_count_without_trust(clone: Path, command: Command) -> None:
    planted(
        clone,
        'profile = "openai"\n[roles]\nbulk = "openai/gpt-5-mini"\n[defaults]\nseed = 5\n[limits]\ncalls = 3\n',
    )
    found = Settings.from_environment()
    assert (found.profile, found.defaults.seed, found.limits.calls) == ("openai", 5, 3)
    assert found.roles["bulk"].chain == ("openai/gpt-5-mini",)
    assert found.notices == ()


def test_the_tighter_limit_counts_and_a_looser_one_never(clone: Path, tmp_path: Path) -> None:
    own = tmp_path / "own.toml"
    own.write_text("[limits]\nusd = 1\ncalls = 5\n")
    planted(clone, "[limits]\nusd = 100\ncalls = 2\nseconds = 60\n")
    limits = Settings.from_environment(config=own).limits
    assert (limits.usd, limits.calls, limits.seconds, limits.tokens) == (Decimal(1), 2, 60, None)


def test_limits_hold_a_pipeline_and_give_way_to_a_budget_given_by_hand(clone: Path) -> None:
    planted(clone, "[limits]\ncalls = 2\n")
    text = "budget: {calls: 9, usd: 3}\n" + ONE
    Path("one.yaml").write_text(text)
    with Fusion(model=ScriptedModel("x")) as fusion:
        assert fusion.quote(pipeline="one.yaml").limits.calls == 2
        assert fusion.quote(pipeline="one.yaml").limits.usd == 3
        assert fusion.quote(pipeline="one.yaml", budget={"calls": 4}).limits.calls == 4


def test_the_users_own_file_counts_below_a_planted_one(clone: Path, tmp_path: Path) -> None:
    own = tmp_path / "own.toml"
    own.write_text('[store]\ncontent = "off"\n[prices."openai/gpt-5.6"]\ninput = 9\noutput = 9\n')
    planted(clone, '[store]\ncontent = "full"\n[prices."openai/gpt-5.6"]\ninput = 0\noutput = 0\n')
    found = Settings.from_environment(config=own)
    assert found.store.content == "off"
    assert found.prices["openai/gpt-5.6"].input == 9
    assert found.notices[0].startswith(f"{clone / 'fusion.toml'}: [store] and [prices] are ignored")


def test_a_file_that_is_named_counts_in_full(clone: Path) -> None:
    path = planted(clone, BOUND["retention"])
    for found in (Settings.from_environment(config=path), Settings.from_environment({"FUSION_CONFIG": str(path)})):
        assert (found.store.retention, found.notices, found.files) == (1, (), (path,))


# Files that never count.


def test_a_file_that_every_user_can_write_is_ignored(clone: Path, command: Command) -> None:
    path = planted(clone, 'profile = "openai"\n')
    path.chmod(0o666)
    assert Settings.from_environment().profile is None
    ran = command("runs", "list")
    assert (
        ran.err.splitlines()[0]
        == f"fusion: {path} is ignored: every user can write to it; --config {path} takes it all the same"
    )
    ran = command("trust")
    assert (ran.code, "cannot be trusted: every user can write to it" in ran.err) == (2, True)


def test_a_file_of_another_user_is_ignored(clone: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = planted(clone, 'profile = "openai"\n')
    monkeypatch.setattr(os, "geteuid", lambda: path.stat().st_uid + 1)
    found = Settings.from_environment()
    assert (found.profile, found.files) == (None, ())
    assert "it belongs to another user" in found.notices[0]
    with pytest.warns(UserWarning, match="it belongs to another user"):
        Fusion(profile="local").close()


def test_a_link_counts_as_the_file_that_it_leads_to(clone: Path, tmp_path: Path) -> None:
    theirs = tmp_path / "theirs.toml"
    theirs.write_text(BOUND["retention"])
    (clone / "fusion.toml").symlink_to(theirs)
    assert Settings.from_environment().store.retention is None
    Trust().record(theirs, digest_of({"store": {"retention": 1}}), trusted=True)
    assert Settings.from_environment().store.retention == 1
    theirs.chmod(0o666)
    assert unfit(clone / "fusion.toml") == "every user can write to it"


def test_the_search_goes_up_to_the_home_folder_and_not_beyond(clone: Path, tmp_path: Path) -> None:
    planted(tmp_path, 'profile = "groq"\n')
    assert Settings.from_environment().profile is None
    home = planted(tmp_path / "home", 'profile = "openai"\n')
    assert Settings.from_environment().files == (home,)
    deep = clone / "a" / "b"
    deep.mkdir(parents=True)
    near = planted(clone, 'profile = "gemini"\n')
    assert list(project_files(deep)) == [near, home]


def test_a_pipe_or_folder_of_that_name_is_no_file(clone: Path) -> None:
    (clone / "fusion.toml").mkdir()
    os.mkfifo(clone.parent / "fusion.toml")
    assert Settings.from_environment().files == ()


def test_a_planted_env_file_is_not_read(clone: Path, attacker: Provider) -> None:
    (clone / ".env").write_text(f"OPENAI_BASE_URL={attacker.url}\nFUSION_CONFIG={clone}/evil.toml\n")
    code = "import os, litellm, fusion; fusion.Fusion(); print(os.environ.get('OPENAI_BASE_URL'))"
    code = "import fusion.models.providers.litellm; " + code
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=clone, env=environment(), capture_output=True, text=True, check=True
    )
    assert done.stdout == "None\n"


# Retention.


def test_a_planted_retention_removes_no_run(clone: Path, command: Command) -> None:
    with Fusion(model=ScriptedModel("x"), store=True) as fusion:
        run = fusion.complete(pipeline="one.yaml").run_id
    _age(Settings.from_environment().store.path, days=3)
    planted(clone, BOUND["retention"])
    assert command("runs", "list").code == 0
    assert command("runs", "show", run).code == 0
    assert command("validate", "one.yaml").code == 0
    planted(clone, "")
    with History.open() as history:
        assert [one.run_id for one in history.list()] == [run]


def test_prune_takes_the_retention_of_the_settings(clone: Path, command: Command, tmp_path: Path) -> None:
    with Fusion(model=ScriptedModel("x"), store=True) as fusion:
        fusion.complete(pipeline="one.yaml")
    _age(Settings.from_environment().store.path, days=3)
    assert command("runs", "prune").code == 2
    own = tmp_path / "own.toml"
    own.write_text(BOUND["retention"])
    ran = command("runs", "prune", "--config", str(own))
    assert (ran.code, ran.err) == (0, "removed 1 run\n")


def _age(path: Path, *, days: int) -> None:
    code = f"import sqlite3; c = sqlite3.connect({str(path)!r}); "
    code += f"c.execute('UPDATE runs SET started = started - {days * 86400}'); c.commit()"
    subprocess.run([sys.executable, "-c", code], check=True)


# The ledger and the question.


def test_trust_is_listed_and_revoked(clone: Path, command: Command) -> None:
    path = planted(clone, BOUND["retention"])
    assert command("trust", "--list").err == "no file is trusted\n"
    assert command("trust", str(clone)).code == 0
    assert command("trust", "--list").out.split() == ["trusted", str(path)]
    assert Settings.from_environment().store.retention == 1
    assert command("trust", "--revoke").out == f"revoked {path}\n"
    assert Settings.from_environment().store.retention is None
    ran = command("trust", "--revoke", str(path))
    assert (ran.code, "is not trusted" in ran.err) == (2, True)
    path.unlink()
    assert command("trust").code == 2
    assert command("trust", "--list", "--revoke").code == 2


def test_a_file_without_such_tables_needs_no_trust(clone: Path, command: Command) -> None:
    path = planted(clone, 'profile = "openai"\n')
    assert command("trust").out == f"{path} needs no trust\n"


@pytest.mark.parametrize("said", ["budget 'nightly': usd = 5, calls = 20"])
def test_the_budgets_of_a_file_are_shown_before_it_is_trusted(clone: Path, command: Command, said: str) -> None:
    path = planted(clone, "[budgets.nightly]\nusd = 5\ncalls = 20\n")
    done = command("trust")
    assert (done.code, said in done.out + done.err) == (0, True)
    assert Settings.from_environment().budgets["nightly"].file == str(path)


def test_a_broken_ledger_trusts_nothing(clone: Path) -> None:
    path = planted(clone, BOUND["retention"])
    ledger = clone.parent / "trust.json"
    for text in ("", "[]", '{"version": 1}', '{"version": 1, "files": {"x": 5}}', "[" * 100_000):
        ledger.write_text(text)
        assert Trust(ledger).answers() == {}
    Trust(ledger).record(path, "abc", trusted=True)
    assert Trust(ledger).answer(path, "abc") is True
    assert Trust(ledger).answer(path, "abd") is None
    assert ledger.stat().st_mode & 0o077 == 0


@pytest.mark.parametrize(("said", "trusted"), [(b"y\n", True), (b"n\n", False), (b"\n", False)])
def test_on_a_terminal_it_is_asked_once(clone: Path, said: bytes, trusted: bool) -> None:
    path = planted(clone, BOUND["retention"])
    first = _on_terminal(said)
    assert "is not trusted yet. It sets:" in first
    assert "store: retention = 1" in first
    assert ("is ignored until you trust it" in first) is not trusted
    second = _on_terminal(b"")
    assert "Trust it?" not in second
    assert ("is ignored until you trust it" in second) is not trusted
    (answer,) = Trust().answers().values()
    assert (answer[1], Settings.from_environment().files) == (trusted, (path,))


def _on_terminal(said: bytes) -> str:
    """All that `fusion runs list` prints on a terminal whose user types this."""
    ours, theirs = pty.openpty()
    words = [sys.executable, "-m", "fusion", "runs", "list"]
    with subprocess.Popen(words, stdin=theirs, stdout=theirs, stderr=theirs, env=environment()):
        os.close(theirs)
        os.write(ours, said)
        text = b""
        with suppress(OSError):  # the end, on Linux
            while piece := os.read(ours, 4096):
                text += piece
    os.close(ours)
    return text.decode()


def test_without_a_terminal_nothing_is_asked(clone: Path, command: Command) -> None:
    planted(clone, BOUND["retention"])
    ran = command("runs", "list", stdin=b"y\n")
    assert "Trust it?" not in ran.err
    assert Trust().answers() == {}


def test_python_warns_and_never_asks(clone: Path) -> None:
    planted(clone, BOUND["retention"])
    with pytest.warns(UserWarning, match=r"\[store\] is ignored until you trust it") as seen:
        Fusion(profile="local").close()
    assert seen[0].filename == __file__


def test_the_option_holds_before_and_behind_the_command(clone: Path, command: Command, tmp_path: Path) -> None:
    own = tmp_path / "own.toml"
    own.write_text(BOUND["endpoints"])
    for words in (("--config", str(own), "models"), ("models", "--config", str(own))):
        assert f"settings: {own}" in command(*words).out
    ran = command("--config", "gone.toml", "runs", "list")
    assert (ran.code, "no settings file 'gone.toml'" in ran.err) == (2, True)
