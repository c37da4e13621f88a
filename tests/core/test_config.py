"""fusion.toml: endpoints of the user's own, roles, prices, defaults, and every mistake in the file."""

from collections.abc import Iterator
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from fusion import Fusion, Result, RunFailed, Settings, UsageError
from tests.cli.conftest import Command
from tests.cli.conftest import command as command  # a fixture
from tests.conftest import Write, own_settings
from tests.provider import Answer, Provider, Seen

ONE = "stages: {answer: {kind: generate, role: bulk, prompt: Say hello.}}\noutput: answer\n"
ENDPOINT = """
[endpoints.mine]
model = "Qwen/Qwen3-8B"
api_base = "URL"
key_env = "MY_SERVER_SECRET"
context = 8000
price = {input = 1, output = 2.5}
concurrency = 2
"""
SECRET = "sk-of-my-own-server"


@pytest.fixture
def write(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Write:
    """Writes the user's own fusion.toml, which FUSION_CONFIG names; a pipeline `one.yaml` is in the folder."""
    here = tmp_path / "a" / "b"
    here.mkdir(parents=True)
    (here / "one.yaml").write_text(ONE)
    monkeypatch.chdir(here)
    monkeypatch.setenv("MY_SERVER_SECRET", SECRET)

    return own_settings(tmp_path, monkeypatch)


@pytest.fixture
def provider() -> Iterator[Provider]:
    with Provider(Answer("hello", model="qwen3-served")) as running:
        yield running


def done(**options: Any) -> Result:
    with Fusion(**options) as fusion:
        return fusion.complete(None, pipeline="one.yaml")


def test_an_endpoint_is_asked_with_its_key_under_its_own_name(write: Write, provider: Provider) -> None:
    write(ENDPOINT.replace("URL", provider.url))
    result = done(roles={"bulk": "mine"})
    (seen,) = provider.requests
    assert seen.body["model"] == "Qwen/Qwen3-8B"
    assert seen.headers["authorization"] == f"Bearer {SECRET}"
    assert [(one.asked, one.served) for one in result.models] == [("mine", "qwen3-served")]
    assert result.cost.usd == (7 * Decimal(1) + 3 * Decimal("2.5")) / 1_000_000
    assert result.receipt.lines[0].price_source == "fusion.toml"
    assert SECRET not in result.model_dump_json()


def test_an_endpoint_stands_in_chains_and_roles_of_the_file(write: Write, provider: Provider) -> None:
    text = ENDPOINT.replace("URL", provider.url)
    with Provider(Answer("down", status=503)) as down:
        dead = f'[endpoints.dead]\nmodel = "x"\napi_base = "{down.url}"\n'
        write(f'{text}\n{dead}[roles]\nbulk = {{chain = ["dead", "mine"], temperature = 0.5}}\n')
        result = done()
    assert [(one.asked, one.by) for one in result.models] == [("dead", "mine")]
    assert provider.requests[0].body["temperature"] == 0.5
    assert "authorization" not in {name for name, value in down.requests[0].headers.items() if SECRET in value}


def test_on_the_command_line_a_role_is_given_an_endpoint(write: Write, provider: Provider, command: Command) -> None:
    write(ENDPOINT.replace("URL", provider.url))
    ran = command("run", "one.yaml", "--role", "bulk=mine")
    assert (ran.code, ran.out) == (0, "hello\n")
    ran = command("run", "one.yaml", "--role", "bulk=mien")
    assert ran.code == 2
    assert "no provider is known for the model 'mien'; did you mean 'mine'" in ran.err


def test_the_context_of_an_endpoint_holds_without_a_request(write: Write, provider: Provider) -> None:
    write(ENDPOINT.replace("URL", provider.url).replace("8000", "100"))
    with pytest.raises(RunFailed, match="'mine' has room for 100"):
        done(roles={"bulk": "mine"})
    assert provider.requests == []


def test_the_concurrency_of_an_endpoint_holds_over_all_roles(write: Write) -> None:
    open_at_once: list[int] = []

    def script(_: Seen) -> Answer:
        open_at_once.append(provider.open)
        return Answer("hello", delay=0.02)

    stage = "{{kind: map, over: 'range(6) | list', role: {role}, prompt: 'do {{{{ item.source }}}}'}}"
    with Provider(script) as provider:
        write(ENDPOINT.replace("URL", provider.url))
        stages = f"  a: {stage.format(role='bulk')}\n  b: {stage.format(role='frontier')}\n"
        Path("one.yaml").write_text(f"stages:\n{stages}output: {{a: a, b: b}}\n")
        assert done(roles={"bulk": "mine", "frontier": "mine"}).status == "ok"
    assert len(open_at_once) == 12
    assert max(open_at_once) == 2


def test_a_key_that_is_not_set_is_named(write: Write, monkeypatch: pytest.MonkeyPatch) -> None:
    write(ENDPOINT.replace("URL", "http://127.0.0.1:9/v1"))
    monkeypatch.delenv("MY_SERVER_SECRET")
    with pytest.raises(UsageError, match="role 'bulk' needs 'mine', and MY_SERVER_SECRET is not set"):
        done(roles={"bulk": "mine"})


def test_the_profile_prices_and_defaults_of_the_file(write: Write, provider: Provider, monkeypatch: Any) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "sk-test")
    monkeypatch.setenv("ANTHROPIC_API_KEY", "sk-test")
    monkeypatch.setenv("OPENAI_BASE_URL", provider.url)
    write(
        'profile = "openai"\n[prices."openai/gpt-5.6-luna"]\ninput = 100\noutput = 1000\n'
        '[defaults]\nmax_tokens = 77\nseed = 5\nextra = {user = "me"}\n'
    )
    result = done()
    assert result.profile == "openai"
    assert result.cost.usd == (7 * Decimal(100) + 3 * Decimal(1000)) / 1_000_000
    body = provider.requests[0].body
    assert (body["max_completion_tokens"], body["seed"], body["user"]) == (77, 5, "me")
    Path("one.yaml").write_text("defaults: {seed: 6}\n" + ONE)
    done()
    assert (provider.requests[1].body["seed"], provider.requests[1].body["max_completion_tokens"]) == (6, 77)
    monkeypatch.setenv("FUSION_PROFILE", "local")
    assert Settings.from_environment().profile == "local"


def test_the_nearest_file_of_a_project_wins_over_the_users_own(
    write: Write, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    users = tmp_path / "config" / "fusion" / "fusion.toml"
    users.parent.mkdir(parents=True)
    users.write_text('profile = "groq"\n[defaults]\nseed = 5\nmax_tokens = 7\n')
    assert (Settings.from_environment().profile, Settings.from_environment().files) == ("groq", (users,))
    far, near = tmp_path / "fusion.toml", tmp_path / "a" / "fusion.toml"
    far.write_text('profile = "gemini"\n[defaults]\nseed = 6\n')
    both = Settings.from_environment()
    assert (both.profile, both.files) == ("gemini", (users, far))
    assert (both.defaults.seed, both.defaults.max_tokens) == (6, 7)
    near.write_text('profile = "openai"\n')
    assert (Settings.from_environment().profile, Settings.from_environment().files) == ("openai", (users, near))
    named = write('profile = "local"\n')
    assert Settings.from_environment().files == (named, near)
    assert Settings.from_environment(config=users).files == (users, near)
    with pytest.raises(UsageError, match=r"no settings file 'gone\.toml'"):
        Settings.from_environment(config="gone.toml")


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ('profil = "openai"\n', ["1:1 profil: unknown key 'profil'; did you mean 'profile'?"]),
        ("\n\nprofile = 5\n", ["3:1 profile: expected text, got 5"]),
        ('# one\nprofile = "opnai"\n', ["2:1 profile 'opnai' does not exist; did you mean 'openai'?"]),
        (
            '[endpoints.mine]\nmodle = "x"\napi_base = "http://x/v1"\n',
            ["2:1 endpoints.mine.modle: unknown key 'modle'; did you mean 'model'?"],
        ),
        ('[endpoints.mine]\nmodel = "x"\n', ["1:2 endpoints.mine: the key 'api_base' is missing"]),
        (
            '[endpoints.x]\nmodel = "x"\napi_base = "localhost:80"\ncontext = 0\nprice = {input = -1, output = 2}\n',
            [
                "3:1 endpoints.x.api_base: invalid URL 'localhost:80'; write it as https://host.example.org/v1",
                "4:1 endpoints.x.context: expected more than 0, got 0",
                "5:10 endpoints.x.price.input: expected at least 0, got",
            ],
        ),
        (
            '[endpoints.mine]\nmodel = "x"\napi_base = "http://me:secret@x/v1"\n',
            ["3:1 endpoints.mine.api_base:"],
        ),
        (
            '[endpoints."a/b"]\nmodel = "x"\napi_base = "http://x/v1"\n',
            ["1:2 endpoints.a/b: invalid endpoint name 'a"],
        ),
        ("[roles]\nbulk = []\n", ["2:1 roles.bulk: expected a mapping, got a list"]),
        ('[roles.bulk]\nchain = [\n  "a/b",\n  5,\n]\n', ["2:1 roles.bulk.chain.1: expected text, got 5"]),
        ("[defaults]\ntemperature = 3\n", ["2:1 defaults.temperature: expected at most 2, got 3"]),
        ("[defaults]\nmax_tokens = true\n", ["2:1 defaults.max_tokens: expected a number, got true"]),
        (
            '[prices."local/small"]\ninput = 1\noutput = 1\n',
            ["1:2 prices.local/small: 'local/small' is an embedded model"],
        ),
        (
            '[store]\npath = 5\ncontent = "some"\nretention = 0\nsynchronous = "full"\ncache_mb = -1\nkeep = 1\n',
            [
                "2:1 store.path: expected text, got 5",
                "3:1 store.content: expected 'full', 'digest' or 'off', got 'some'",
                "4:1 store.retention: expected at least 1, got 0",
                "5:1 store.synchronous: expected 'NORMAL' or 'FULL', got 'full'",
                "6:1 store.cache_mb: expected at least 0, got -1",
                "7:1 store.keep: unknown key 'keep'",
            ],
        ),
        (
            '[store]\npath = ""\nretention = 1.5\n',
            ["2:1 store.path: invalid path ''", "3:1 store.retention: expected a"],
        ),
        ("profile = \n", ["1:11: invalid TOML: invalid value"]),
        ('profile = "x\n', ["1:13: invalid TOML: illegal character"]),
        ("[endpoints\n", ["1:11: invalid TOML: expected ']'"]),
        (
            'x = """\nprofile = 1\n"""\nroles = 5\n',
            ["1:1 x: unknown key 'x'", "4:1 roles: expected a mapping, got 5"],
        ),
    ],
)
def test_every_mistake_is_named_with_file_line_and_key(
    write: Write, command: Command, text: str, says: list[str]
) -> None:
    path = write(text)
    ran = command("run", "one.yaml")
    assert (ran.code, ran.out) == (2, "")
    for line in says:
        assert f"{path}:{line}" in ran.err
    assert "Traceback" not in ran.err


NAME = "expected the name of the environment variable that holds the value, never the value itself"
USER = "invalid URL: it holds a user or password; name the variable of the key instead"


@pytest.mark.parametrize(
    ("text", "says"),
    [
        (
            f'[endpoints.x]\nmodel = "x"\napi_base = "http://x/v1"\nkey_env = "{SECRET}"\n',
            f"4:1 endpoints.x.key_env: {NAME}",
        ),
        (f'[endpoints.x]\nmodel = "x"\napi_base = "http://me:{SECRET}@x/v1"\n', f"3:1 endpoints.x.api_base: {USER}"),
        (f'[sandbox]\nrunner = ["run"]\nenv = ["PATH", "KEY={SECRET}"]\n', f"3:1 sandbox.env.1: {NAME}"),
        (f'[sandbox]\nrunner = ["run"]\nenv = [["{SECRET}"]]\n', f"3:1 sandbox.env.0: {NAME}"),
        (f'[server]\ntokens = {{ci = "{SECRET}"}}\n', f"2:11 server.tokens.ci: {NAME}"),
        (f'[server.tokens]\nci = ["{SECRET}"]\n', f"2:1 server.tokens.ci: {NAME}"),
        (f'[mcp.a]\ncommand = "x"\nenv = {{KEY = "{SECRET}"}}\n', f"3:8 mcp.a.env.KEY: {NAME}"),
        (
            f'[mcp.a]\nurl = "http://x"\nheaders = {{Authorization = "{SECRET}"}}\n',
            f"3:12 mcp.a.headers.Authorization: {NAME}",
        ),
        (f'[mcp.a]\nurl = "https://{SECRET}@x/mcp"\n', f"2:1 mcp.a.url: {USER}"),
    ],
)
def test_a_secret_in_place_of_a_name_is_in_no_message(write: Write, command: Command, text: str, says: str) -> None:
    path = write(text)
    ran = command("run", "one.yaml")
    assert (ran.code, ran.out) == (2, "")
    assert f"{path}:{says}" in ran.err
    assert SECRET not in ran.err


def test_the_store_is_where_and_as_the_file_says(write: Write, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("FUSION_STORE")
    path = write(
        '[store]\npath = "kept/runs.db"\ncontent = "digest"\nretention = 7\nsynchronous = "FULL"\ncache_mb = 3\n'
    )
    store = Settings.from_environment().store
    assert (store.path, store.content, store.retention) == (path.parent / "kept" / "runs.db", "digest", 7)
    assert (store.synchronous, store.cache_bytes) == ("FULL", 3_000_000)
    monkeypatch.setenv("FUSION_STORE", "~/mine.db")
    named = Settings.from_environment().store
    assert (named.path, named.content) == (Path.home() / "mine.db", "digest")


def test_the_store_is_in_the_state_folder_by_default(
    write: Write, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    monkeypatch.setenv("FUSION_STORE", "")
    write("")
    store = Settings.from_environment().store
    assert (store.path, store.content, store.retention) == (tmp_path / "state" / "fusion" / "runs.db", "full", None)
    assert (store.synchronous, store.cache_bytes) == ("NORMAL", 500_000_000)


def test_models_lists_endpoints_and_what_the_file_says(write: Write, command: Command) -> None:
    path = write('profile = "local"\n[roles]\nbulk = "mine"\n' + ENDPOINT.replace("URL", "http://127.0.0.1:9/v1"))
    ran = command("models")
    lines = [line.split() for line in ran.out.splitlines()]
    said = ["mine", "MY_SERVER_SECRET:", "set", "1.00", "2.50", "none", "8,000", "unknown", "here"]
    assert ["local", "*", "bulk", *said] in lines
    assert ["(endpoint)", *said] in lines
    assert f"settings: {path}" in ran.out
    assert SECRET not in ran.out


# fusion models check


def test_check_asks_every_model_once_and_says_what_it_cost(
    write: Write, provider: Provider, command: Command
) -> None:
    write(
        'profile = "local"\n[roles]\nbulk = "mine"\nfrontier = "mine"\nsecond = "mine"\n'
        + ENDPOINT.replace("URL", provider.url)
    )
    ran = command("models", "check")
    assert (ran.code, ran.err) == (0, "")
    first, last = ran.out.splitlines()
    assert first.split()[:2] == ["mine", "ok"]
    assert "served by qwen3-served" in first
    assert last == "1 of 1 answered; <$0.0001"
    assert len(provider.requests) == 1


def test_check_says_who_does_not_answer_and_ends_with_3(write: Write, provider: Provider, command: Command) -> None:
    with Provider(Answer("wrong key", status=401)) as refusing:
        dead = f'[endpoints.dead]\nmodel = "x"\napi_base = "{refusing.url}"\n'
        roles = '[roles]\nbulk = {chain = ["dead", "mine", "openai/gpt-5.6"]}\nfrontier = "mine"\nsecond = "mine"\n'
        write('profile = "local"\n' + roles + dead + ENDPOINT.replace("URL", provider.url))
        ran = command("models", "check", "--profile", "local")
    rows = {line.split()[0]: line for line in ran.out.splitlines()}
    assert ran.code == 3
    assert "AuthenticationError: 'dead' asks for a key: (401) wrong key; set `key_env` of its" in rows["dead"]
    assert (
        "MissingKeyError: role 'asked' needs 'openai/gpt-5.6', and OPENAI_API_KEY is not set"
        in rows["openai/gpt-5.6"]
    )
    assert rows["mine"].split()[1] == "ok"
    assert rows["1"].startswith("1 of 3 answered; ")


@pytest.mark.parametrize(
    ("profile", "environment"),
    [
        ("openai", {"OPENAI_BASE_URL": "/v1"}),
        ("anthropic", {"ANTHROPIC_BASE_URL": ""}),
        ("openrouter", {"OPENROUTER_API_BASE": "/v1"}),
        ("groq", {"GROQ_API_BASE": "/v1"}),
        ("deepseek", {"DEEPSEEK_API_BASE": "/v1"}),
        ("azure", {"AZURE_API_BASE": "", "AZURE_API_VERSION": "2026-01-01"}),
    ],
)
def test_a_profile_reaches_its_provider(
    write: Write, provider: Provider, monkeypatch: pytest.MonkeyPatch, profile: str, environment: dict[str, str]
) -> None:
    monkeypatch.setenv(f"{profile.upper()}_API_KEY", SECRET)
    for name, path in environment.items():
        monkeypatch.setenv(name, f"{provider.root}{path}" if "VERSION" not in name else path)
    write("")
    result = done(profile=profile)
    assert (result.status, result.text, result.profile) == ("ok", "hello", profile)
    (seen,) = provider.requests
    assert SECRET in "".join(seen.headers.values())
