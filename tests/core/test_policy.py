"""[policy]: a denied model is refused by every way in, and no file, option or variable loosens a rule."""

import os
from collections.abc import Callable, Iterator
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from fusion import Fusion, Model, ModelInfo, Price, RunFailed, ScriptedModel, Settings, UsageError, calibrate
from fusion.core.config import machine
from fusion.core.config.policy import Policy, PolicyTable, Rules, Subject, matches
from fusion.core.errors import PolicyError
from fusion.models.gateway import Gateway
from tests.cli.conftest import Command, Ran
from tests.cli.conftest import command as command  # a fixture
from tests.provider import Answer, Provider

DENIED = "deepseek/deepseek-v4-flash"
ONE = "stages: {answer: {kind: generate, role: bulk, prompt: Say hello.}}\noutput: answer\n"
OWN = """
[endpoints.fine]
model = "qwen-mini"
api_base = "URL"
price = {input = 0.01, output = 0.01}
"""
THERE = '[endpoints.innocent]\nmodel = "deepseek-v4-flash"\napi_base = "https://api.deepseek.com/v1"\n'

RULES = {
    "id": f'deny = ["{DENIED}"]',
    "id with its kind": f'deny = ["model:{DENIED}"]',
    "ids of a provider": 'deny = ["openai/*", "deepseek/*"]',
    "capitals": 'deny = "DeepSeek/*"',
    "provider": 'deny = ["provider:deepseek"]',
    "bare word": 'deny = ["deepseek"]',
    "family": 'deny = ["family:deepseek"]',
    "region": 'deny = ["region:cn"]',
    "price": "max_price = {output = 0.05}",
    "price of the input": "max_price = {input = 0.05}",
    "allowed others": 'allow = ["fine", "openai/*"]',
    "allowed region": 'allow = ["region:here"]',
    "nothing allowed": "allow = []",
}
REGION = RULES["region"]


@pytest.fixture
def desk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator["Desk"]:
    home = tmp_path / "home"
    (home / "work").mkdir(parents=True)
    for name, value in {
        "HOME": str(home),
        "DEEPSEEK_API_KEY": "sk-0",
        "FUSION_CONFIG": str(home / "own.toml"),
    }.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("FUSION_STORE", str(tmp_path / "runs.db"))
    monkeypatch.setattr(machine, "MACHINE_WIDE", tmp_path / "etc" / "policy.toml")
    monkeypatch.chdir(home / "work")
    with Provider(Answer("hello")) as provider:
        yield Desk(tmp_path, provider, monkeypatch)


class Desk:
    """A user's home and working folder, the machine's policy file, and a server that must not be asked."""

    def __init__(self, folder: Path, provider: Provider, patch: pytest.MonkeyPatch) -> None:
        self.provider = provider
        self.patch = patch
        self.work = folder / "home" / "work"
        self.own = folder / "home" / "own.toml"
        self.machine = folder / "etc" / "policy.toml"
        self.project = self.work / "fusion.toml"
        self.own.write_text(OWN.replace("URL", provider.url))
        self.write("one.yaml", ONE)

    def write(self, name: str, text: str) -> Path:
        path = self.work / name
        path.write_text(text)
        return path

    def rule(self, layer: str, text: str) -> str:
        """Set a rule in the file of a layer; return the file and line of the rule."""
        path: Path = getattr(self, layer)
        path.parent.mkdir(exist_ok=True)
        before = path.read_text() if path.exists() else ""
        head = "" if layer == "machine" else f"{before}\n[policy]\n"
        path.write_text(f"{head}{text}\n")
        return f"{path}:{head.count(chr(10)) + 1}"


LAYERS = ("machine", "own", "project")


@pytest.mark.parametrize("layer", LAYERS)
@pytest.mark.parametrize("rule", RULES.values(), ids=RULES)
def test_each_rule_of_each_file_refuses_the_model(desk: Desk, command: Command, layer: str, rule: str) -> None:
    place = desk.rule(layer, rule)
    ran = command("run", "one.yaml", "-m", DENIED)
    assert (ran.code, ran.out) == (2, "")
    assert f"{place}: {rule.partition(' ')[0]} = " in ran.err
    assert f"forbids '{DENIED}'" in ran.err
    assert ("ask the owner of that file" in ran.err) == (layer == "machine")


Way = Callable[[Desk, Command], Ran]


def by_role(desk: Desk, command: Command) -> Ran:
    desk.write("one.yaml", f"roles: {{bulk: {DENIED}}}\n{ONE}")
    return command("run", "one.yaml")


def by_fallback(desk: Desk, command: Command) -> Ran:
    desk.write("one.yaml", f"roles: {{bulk: {{chain: [fine, {DENIED}]}}}}\n{ONE}")
    return command("run", "one.yaml")


def by_nested(desk: Desk, command: Command) -> Ran:
    desk.write("inner.yaml", f"roles: {{bulk: {DENIED}}}\n{ONE}")
    desk.write("outer.yaml", "stages: {whole: {kind: pipeline, pipeline: inner.yaml}}\noutput: whole\n")
    return command("run", "outer.yaml")


def by_fallback_of_nested(desk: Desk, command: Command) -> Ran:
    desk.write("inner.yaml", ONE)
    desk.write(
        "outer.yaml",
        f"roles: {{bulk: {{chain: [fine, {DENIED}]}}}}\n"
        "stages: {whole: {kind: pipeline, pipeline: inner.yaml}}\noutput: whole\n",
    )
    return command("run", "outer.yaml")


def by_condition(desk: Desk, command: Command) -> Ran:
    """A role that only some items need."""
    desk.write(
        "some.yaml",
        f"roles: {{bulk: fine, dear: {DENIED}}}\ninputs: {{words: words}}\nstages:\n  work: {{kind: map, "
        "over: \"inputs.words.split(',')\", role: [{when: item.index > 5, use: dear}, {use: bulk}], "
        'prompt: "{{ item.source }}"}\noutput: work\n',
    )
    return command("run", "some.yaml", "a,b")


def by_panel(desk: Desk, command: Command) -> Ran:
    desk.write(
        "panel.yaml",
        f"roles: {{bulk: fine, other: {DENIED}}}\n"
        "stages: {answers: {kind: panel, members: [bulk, other], prompt: Say hello.}}\noutput: answers\n",
    )
    return command("run", "panel.yaml")


def by_model(desk: Desk, command: Command) -> Ran:
    return command("run", "one.yaml", "-m", DENIED)


def by_role_option(desk: Desk, command: Command) -> Ran:
    return command("run", "one.yaml", "--role", f"bulk={DENIED}")


def by_profile(desk: Desk, command: Command) -> Ran:
    return command("run", "one.yaml", "--profile", "deepseek")


def by_environment(desk: Desk, command: Command) -> Ran:
    desk.patch.setenv("FUSION_PROFILE", "deepseek")
    return command("run", "one.yaml")


def by_key_alone(desk: Desk, command: Command) -> Ran:
    return command("run", "one.yaml")


def by_settings(desk: Desk, command: Command) -> Ran:
    desk.own.write_text(f'[roles]\nbulk = "{DENIED}"\n{desk.own.read_text()}')
    return command("run", "one.yaml", "--profile", "local")


def by_endpoint(desk: Desk, command: Command) -> Ran:
    desk.own.write_text(THERE + desk.own.read_text())
    return command("run", "one.yaml", "-m", "innocent")


def by_quote(desk: Desk, command: Command) -> Ran:
    return command("quote", "one.yaml", "-m", DENIED)


def by_dry_run(desk: Desk, command: Command) -> Ran:
    return command("run", "one.yaml", "--dry-run", "-m", DENIED)


def by_render(desk: Desk, command: Command) -> Ran:
    return command("render", "one.yaml", "answer", "-m", DENIED)


def by_bench(desk: Desk, command: Command) -> Ran:
    desk.write("items.jsonl", '{"id": "1", "question": "1+1?", "answer": "2"}\n')
    return command("bench", "items.jsonl", "-m", "fine", "-m", DENIED, "--scorer", "number", "-o", "out")


def by_arm(desk: Desk, command: Command) -> Ran:
    desk.write("items.jsonl", '{"id": "1", "question": "1+1?", "answer": "2"}\n')
    desk.write("one.yaml", f"roles: {{bulk: {DENIED}}}\ninputs: {{task: it}}\n{ONE}")
    return command("bench", "items.jsonl", "-m", "fine", "-p", "one.yaml", "--scorer", "number", "-o", "out")


def by_judge(desk: Desk, command: Command) -> Ran:
    desk.write("items.jsonl", '{"id": "1", "question": "1+1?", "answer": "2"}\n')
    desk.write(
        "suite.yaml",
        f"tasks: {{sums: {{file: items.jsonl}}}}\nscorer: {{by: judge, model: {DENIED}}}\non: all\n"
        "arms: {fine: {model: fine}}\n",
    )
    return command("bench", "suite.yaml", "-o", "out")


def by_tune(desk: Desk, command: Command) -> Ran:
    desk.write("items.jsonl", "".join(f'{{"id": "{n}", "prompt": "{n}?", "gold": "2"}}\n' for n in range(60)))
    desk.write(
        "open.yaml",
        "inputs: {question: A question.}\nstages:\n  answer:\n    kind: cascade\n    prompt: generate/pass-through\n"
        "    tiers: [bulk, frontier]\n    accept: {checks: {expression: {any: ['true', 'false']}}}\noutput: answer\n",
    )
    desk.write(
        "suite.yaml",
        "tasks: {sums: {file: items.jsonl}}\nscorer: exact\n"
        f"arms: {{two: {{pipeline: open.yaml, roles: {{bulk: fine, frontier: {DENIED}}}}}}}\n",
    )
    return command("tune", "suite.yaml", "-o", "out")


WAYS = {name.removeprefix("by_"): way for name, way in list(globals().items()) if name.startswith("by_")}


@pytest.mark.parametrize("layer", LAYERS)
@pytest.mark.parametrize("way", WAYS.values(), ids=WAYS)
def test_a_denied_model_is_refused_by_every_way_in(desk: Desk, command: Command, layer: str, way: Way) -> None:
    if layer == "machine":
        desk.machine.parent.mkdir()
        desk.machine.write_text(f"{REGION}\n")
        place = f"{desk.machine}:1"
    elif layer == "own":
        desk.own.write_text(f"{desk.own.read_text()}\n[policy]\n{REGION}\n")
        place = str(desk.own)
    else:
        desk.project.write_text(f"[policy]\n{REGION}\n")
        place = f"{desk.project}:2"
    ran = way(desk, command)
    assert (ran.code, ran.out) == (2, "")
    assert place in ran.err
    assert 'deny = ["region:cn"] forbids' in ran.err
    assert "Traceback" not in ran.err
    assert desk.provider.requests == []


@pytest.mark.parametrize("layer", LAYERS)
def test_a_resumed_run_may_not_call_what_is_denied_now(desk: Desk, command: Command, layer: str) -> None:
    desk.provider.script = Answer(status=400)
    assert command("run", "one.yaml", "-m", "fine").code == 3
    asked = len(desk.provider.requests)
    desk.rule(layer, 'deny = ["fine"]')
    ran = command("resume", "latest")
    assert (ran.code, ran.out, len(desk.provider.requests)) == (2, "", asked)
    assert 'deny = ["fine"] forbids' in ran.err
    edited = command("resume", "latest", "--pipeline", "one.yaml")
    assert (edited.code, len(desk.provider.requests)) == (2, asked)


@pytest.mark.parametrize(
    ("denied", "served"),
    [("openai/gpt-5.4-mini", "gpt-5.6-luna"), ("openai/gpt-5.6-luna", "gpt-5.4-mini"), ("openai/*", None)],
)
def test_a_resumed_run_of_a_profile_goes_on_with_what_is_left(
    desk: Desk, command: Command, denied: str, served: str | None
) -> None:
    desk.patch.setenv("OPENAI_API_KEY", "sk-0")
    desk.patch.setenv("OPENAI_BASE_URL", desk.provider.url)
    desk.provider.script = Answer(status=400)
    assert command("run", "one.yaml", "--profile", "openai").code == 3
    asked = len(desk.provider.requests)
    desk.provider.script = Answer("hello")
    place = desk.rule("machine", f'deny = ["{denied}"]')
    ran = command("resume", "latest")
    models = [seen.body["model"] for seen in desk.provider.requests[asked:]]
    if served is None:
        assert (ran.code, ran.out, models) == (2, "", [])
        return
    assert (ran.code, ran.out, models) == (0, "hello\n", [served])
    assert f"not called any more: {place}" in ran.err


OWN_MODELS = {
    "id": (ModelInfo(id=DENIED, provider="own"), RULES["id"]),
    "provider": (ModelInfo(id="mine", provider="deepseek"), RULES["provider"]),
    "ids of a provider": (ModelInfo(id="mine", provider="deepseek"), RULES["ids of a provider"]),
    "family": (ModelInfo(id="mine", provider="own", family="deepseek"), RULES["family"]),
    "region": (ModelInfo(id="mine", provider="own", region="cn"), REGION),
    "region of its provider": (ModelInfo(id="mine", provider="deepseek"), REGION),
    "price": (
        ModelInfo(id="mine", provider="own", price=Price(input=Decimal("0.1"), output=Decimal("0.1"))),
        RULES["price"],
    ),
    "unknown price": (ModelInfo(id="mine", provider="own"), 'unknown_price = "deny"'),
    "not allowed": (ModelInfo(id="mine", provider="own"), RULES["allowed others"]),
}


@pytest.mark.parametrize(("info", "rule"), OWN_MODELS.values(), ids=OWN_MODELS)
@pytest.mark.parametrize("given", ["role", "model", "models"])
def test_a_model_object_is_refused_by_its_info(desk: Desk, given: str, info: ModelInfo, rule: str) -> None:
    desk.rule("machine", rule)
    model = Own(info)
    ways: dict[str, dict[str, Any]] = {
        "role": {"roles": {"bulk": model}},
        "model": {"model": model},
        "models": {"models": {"alias": model}, "roles": {"bulk": "alias"}},
    }
    with Fusion(**ways[given]) as fusion, pytest.raises(PolicyError, match=r"policy\.toml:1: .* forbids"):
        fusion.complete(pipeline="one.yaml")
    assert model.calls == 0


class Own(Model):
    def __init__(self, info: ModelInfo) -> None:
        self.info = info
        self.calls = 0

    async def complete(self, request: Any, on_delta: Any = None) -> Any:
        self.calls += 1
        raise AssertionError("asked")


def test_settings_made_by_hand_have_the_policy_of_the_machine(desk: Desk) -> None:
    desk.rule("machine", REGION)
    settings = Settings(models_dir=desk.work, local_threads=1, library_dir=desk.work)
    with pytest.raises(PolicyError, match="region:cn"):
        Gateway(settings).member(DENIED)


def test_a_denied_model_is_not_calibrated(desk: Desk) -> None:
    desk.rule("project", REGION)
    desk.write(
        "cascade.yaml",
        "inputs: {question: A question.}\nstages:\n  answer: {kind: cascade, prompt: generate/pass-through, "
        "tiers: [bulk, frontier], accept: {confidence: 0.5}}\noutput: answer\n",
    )
    with Fusion(roles={"bulk": "fine", "frontier": DENIED}) as fusion, pytest.raises(PolicyError, match="forbids"):
        calibrate(fusion, "cascade.yaml", [("1?", "1")] * 30, target=0.1)
    assert desk.provider.requests == []


# Profiles.


def test_a_profile_leaves_out_what_is_denied_with_a_note(desk: Desk, command: Command) -> None:
    place = desk.rule("project", 'deny = ["deepseek/deepseek-v4-flash"]')
    ran = command("run", "one.yaml", "--dry-run")
    assert ran.code == 0
    assert "bulk=deepseek/deepseek-v4-pro" in ran.out
    assert f'left out of its chain: {place}: deny = ["{DENIED}"] forbids' in ran.out.replace("\n", " ")
    desk.project.write_text('[policy]\ndeny = ["deepseek/*"]\n')
    assert command("run", "one.yaml", "--dry-run").code == 2


def test_the_list_of_models_names_the_rule(desk: Desk, command: Command) -> None:
    place = desk.rule("machine", 'deny = ["deepseek/deepseek-v4-flash"]')
    rows = [line for line in command("models").out.splitlines() if DENIED in line]
    assert rows
    assert all(f"denied by {place}" in row for row in rows)


# Layers.


def test_denials_add_up_and_allowances_intersect(desk: Desk) -> None:
    desk.rule("machine", 'deny = ["a/*"]\nallow = ["a/*", "b/*", "c/*", "d/*"]')
    desk.rule("own", 'deny = ["b/*"]\nallow = ["b/*", "c/*", "d/*", "e/*"]')
    desk.rule("project", 'allow = ["*/x"]\nmax_price = {input = 5}')
    policy = Settings.from_environment().policy
    assert len(policy.rules) == 3

    def allowed(name: str, price: str = "1") -> bool:
        provider = name.partition("/")[0]
        return policy.refusal(Subject((name,), frozenset({provider}), prices=((Decimal(price), Decimal(1)),))) is None

    names = ["a/x", "b/x", "c/x", "c/y", "d/x", "e/x"]
    assert [name for name in names if allowed(name)] == ["c/x", "d/x"]
    assert not allowed("c/x", "5.01")
    assert allowed("c/x", "5")


LOOSER = {
    "allow": f'allow = ["{DENIED}"]',
    "everything": 'allow = ["*"]',
    "no denial": "deny = []",
    "high price": "max_price = {input = 1000, output = 1000}",
    "full content": 'content = "full"',
}


@pytest.mark.parametrize("text", LOOSER.values(), ids=LOOSER)
def test_no_other_file_loosens_the_machine(desk: Desk, command: Command, text: str) -> None:
    desk.rule("machine", f'{REGION}\ncontent = "digest"')
    desk.rule("own", text)
    desk.rule("project", text)
    ran = command("--config", str(desk.own), "run", "one.yaml", "-m", DENIED)
    assert (ran.code, 'deny = ["region:cn"] forbids' in ran.err) == (2, True)
    assert Settings.from_environment().policy.content == "digest"


@pytest.mark.parametrize("name", ["FUSION_CONFIG", "FUSION_POLICY", "XDG_CONFIG_HOME", "HOME", "FUSION_STORE"])
def test_no_variable_loosens_the_machine(desk: Desk, command: Command, name: str) -> None:
    desk.rule("machine", REGION)
    desk.patch.setenv(name, str(desk.write("other.toml", "")))
    assert "forbids" in command("run", "one.yaml", "-m", DENIED).err


def test_a_price_of_the_own_file_gets_no_model_below_the_limit(desk: Desk, command: Command) -> None:
    desk.rule("machine", RULES["price"])
    desk.own.write_text(f'[prices."{DENIED}"]\ninput = 0\noutput = 0\n')
    assert "max_price = {output = 0.05} forbids" in command("run", "one.yaml", "-m", DENIED).err


def test_an_endpoint_of_ones_own_has_its_own_price_alone(desk: Desk, command: Command) -> None:
    desk.own.write_text(desk.own.read_text().replace("qwen-mini", "gpt-5.6"))
    desk.rule("machine", RULES["price"])
    assert command("quote", "one.yaml", "-m", "fine").code == 0


def test_a_model_of_unknown_price_is_refused_by_choice(desk: Desk, command: Command) -> None:
    desk.own.write_text(desk.own.read_text().replace("price", "# price"))
    desk.rule("machine", "max_price = {output = 0.05}")
    assert command("quote", "one.yaml", "-m", "fine").code == 0
    place = desk.rule("machine", 'unknown_price = "deny"')
    ran = command("quote", "one.yaml", "-m", "fine")
    assert (ran.code, f'{place}: unknown_price = "deny" forbids' in ran.err) == (2, True)


FIELDS = [
    "{models: [openai/gpt-5.6, deepseek/deepseek-v4-pro]}",
    "{models: deepseek/deepseek-v4-pro}",
    "{fallbacks: [{model: deepseek/deepseek-v4-pro}]}",
]


@pytest.mark.parametrize("extra", FIELDS)
@pytest.mark.parametrize("rule", ['deny = ["openrouter/deepseek/*"]', 'deny = ["family:deepseek"]'])
def test_a_field_of_a_request_names_no_denied_model(desk: Desk, command: Command, rule: str, extra: str) -> None:
    desk.patch.setenv("OPENROUTER_API_KEY", "sk-0")
    desk.patch.setenv("OPENROUTER_API_BASE", desk.provider.url)
    desk.write("one.yaml", f"roles: {{bulk: {{chain: [openrouter/openai/gpt-5.6], extra: {extra}}}}}\n{ONE}")
    assert command("run", "one.yaml").out == "hello\n"
    desk.rule("machine", rule)
    ran = command("run", "one.yaml")
    assert (ran.code, ran.out, len(desk.provider.requests)) == (2, "", 1)
    assert "forbids 'openrouter/deepseek/deepseek-v4-pro'" in ran.err


def test_a_replay_calls_no_model_and_passes(desk: Desk) -> None:
    desk.rule("machine", "allow = []")
    assert Gateway(Settings.from_environment()).refusal("replay:kept.jsonl") is None


# Bad files.

BAD = {
    "unknown key": ('denny = ["a/*"]', ":1:1 denny: unknown key 'denny'; did you mean 'deny'?"),
    "wrong type": ("deny = 3", ":1:1 deny: expected a list, got 3"),
    "wrong element": ('deny = ["a/*", 3]', "expected text, got 3"),
    "unknown kind": (
        'deny = ["regoin:cn"]',
        "unknown kind 'regoin' of the pattern 'regoin:cn'; did you mean 'region'?",
    ),
    "empty pattern": ('allow = [""]', "an empty pattern"),
    "nameless pattern": ('allow = ["region:"]', "names no region"),
    "price below zero": ("max_price = {input = -1}", "expected at least 0, got -1"),
    "unknown content": ('content = "some"', "expected 'full', 'digest' or 'off', got 'some'"),
    "no TOML": ("deny = [", "invalid TOML"),
    "no text": ("\0", "binary"),
}


@pytest.mark.parametrize("layer", LAYERS)
@pytest.mark.parametrize(("text", "says"), BAD.values(), ids=BAD)
def test_a_bad_file_stops_every_run(desk: Desk, command: Command, layer: str, text: str, says: str) -> None:
    desk.rule(layer, text)
    ran = command("run", "one.yaml", "-m", "fine")
    assert (ran.code, ran.out) == (2, "")
    assert str(getattr(desk, layer)) in ran.err
    assert says in ran.err or (layer != "machine" and says.rpartition(" ")[2] in ran.err)
    assert desk.provider.requests == []


def test_the_file_of_the_machine_may_have_the_head_of_a_fusion_toml(desk: Desk, command: Command) -> None:
    place = desk.rule("machine", f"# of the security team\n[policy]\n{REGION}")
    assert f"{place.rpartition(':')[0]}:3: deny" in command("run", "one.yaml", "-m", DENIED).err
    desk.rule("machine", f"[policy]\n{REGION}\n[limits]\ncalls = 3")
    assert "unknown key 'limits'" in command("run", "one.yaml", "-m", "fine").err


def test_the_line_is_that_of_the_pattern(desk: Desk, command: Command) -> None:
    desk.rule("machine", 'content = "full"\ndeny = [\n  "openai/*",\n  # not those\n  "region:cn",\n]')
    assert f'{desk.machine}:5: deny = ["region:cn", …] forbids' in command("run", "one.yaml", "-m", DENIED).err


@pytest.mark.parametrize("kind", ["folder", "dangling link", "writable", "foreign", "unreadable"])
def test_a_file_of_the_machine_that_cannot_be_trusted_is_never_ignored(
    desk: Desk, command: Command, kind: str
) -> None:
    desk.rule("machine", 'deny = ["nothing/*"]')
    if kind in ("folder", "dangling link"):
        desk.machine.unlink()
    if kind == "folder":
        desk.machine.mkdir()
    elif kind == "dangling link":
        desk.machine.symlink_to("/nowhere/policy.toml")
    elif kind == "writable":
        desk.machine.chmod(0o666)
    elif kind == "foreign" and os.geteuid() == 0:
        os.chown(desk.machine, 12345, 12345)
    else:  # as the system says it to users without rights, which an administrator has
        desk.patch.setattr(machine, "MACHINE_WIDE", Locked(desk.machine))
    ran = command("run", "one.yaml", "-m", "fine")
    assert (ran.code, ran.out) == (2, "")
    assert f"the machine-wide policy '{desk.machine}'" in ran.err
    assert "no model is called without it" in ran.err
    assert desk.provider.requests == []


class Locked(type(Path())):  # type: ignore[misc]
    def lstat(self) -> os.stat_result:
        raise PermissionError(13, "Permission denied")


# Patterns.

SUBJECT = Subject(
    ("openrouter/deepseek/deepseek-v4",), frozenset({"openrouter"}), family="deepseek", region="global", seat="us"
)
PATTERNS = [
    ("openrouter/*", True, True),
    ("openrouter/deepseek/*", True, True),
    ("deepseek/*", False, False),
    ("provider:openrouter", True, True),
    ("provider:deepseek", False, False),
    ("family:deepseek", True, True),
    ("family:deep*", True, True),
    ("region:us", True, False),
    ("region:global", True, True),
    ("openrouter", True, True),
    ("deepseek-v4", True, False),
    ("deepseek-*", True, False),
    ("*", True, True),
    ("model:*v4", True, True),
]


@pytest.mark.parametrize(("pattern", "denied", "allowed"), PATTERNS)
def test_a_region_is_denied_by_the_seat_too_and_allowed_by_the_place_alone(
    pattern: str, denied: bool, allowed: bool
) -> None:
    assert (matches(pattern, SUBJECT, strict=True), matches(pattern, SUBJECT, strict=False)) == (denied, allowed)


PARTS = [
    ("text-completion-openai/gpt-3.5-turbo-instruct", "provider:openai"),
    ("openai/gpt-5.6", "region:us"),
    ("gpt-5.6", "openai/*"),
    ("moonshot/kimi-k2", "region:cn"),
    ("xai/grok-4", "family:grok"),
    ("openrouter/deepseek/deepseek-v4-pro", "family:deepseek"),
    ("local/small", "region:here"),
]


BASES = [
    ("OPENAI_BASE_URL", "https://api.deepseek.com/v1", "openai/other", "provider:deepseek"),
    ("OPENAI_BASE_URL", "https://api.deepseek.com/v1", "openai/deepseek-v4-flash", RULES["id"][9:-2]),
    ("OPENAI_API_BASE", "https://api.moonshot.cn/v1", "openai/kimi", "region:cn"),
    ("ANTHROPIC_BASE_URL", "https://api.deepseek.com/anthropic", "anthropic/other", "region:cn"),
    ("GROQ_API_BASE", "https://openrouter.ai/api/v1", "groq/other", "openrouter"),
]


@pytest.mark.parametrize(("variable", "address", "model_id", "pattern"), BASES)
def test_a_variable_takes_no_model_past_a_rule(
    desk: Desk, variable: str, address: str, model_id: str, pattern: str
) -> None:
    desk.rule("machine", f'deny = ["{pattern}"]')
    gateway = Gateway(Settings.from_environment())
    assert gateway.refusal(model_id) is None
    desk.patch.setenv(variable, address)
    assert gateway.refusal(model_id) is not None


@pytest.mark.parametrize(("model_id", "pattern"), PARTS)
def test_what_a_pattern_names(desk: Desk, model_id: str, pattern: str) -> None:
    desk.rule("machine", f'deny = ["{pattern}"]')
    with pytest.raises(PolicyError, match="forbids"):
        Gateway(Settings.from_environment()).check(model_id)


# Content.


@pytest.mark.parametrize("layer", LAYERS)
@pytest.mark.parametrize("content", ["digest", "off"])
def test_a_store_keeps_no_more_than_the_policy_allows(desk: Desk, layer: str, content: str) -> None:
    place = desk.rule(layer, f'content = "{content}"')
    model = ScriptedModel("the secret answer", name="scripted/one")
    with Fusion(profile="local", model=model, store=True, content="full") as fusion:
        result = fusion.complete(pipeline="one.yaml")
        row = fusion.runs.find("latest")
    assert (result.text, row.content) == ("the secret answer", content)
    assert any(f'{place}: content = "{content}"' in note for note in result.notes)
    kept = b"".join(path.read_bytes() for path in desk.work.parents[1].glob("runs.db*") if path.is_file())
    assert b"the secret answer" not in kept


def test_a_stricter_setting_than_the_policy_counts(desk: Desk) -> None:
    desk.rule("machine", 'content = "digest"')
    with Fusion(profile="local", model=ScriptedModel("yes"), store=True, content="off") as fusion:
        assert (fusion.keeps, fusion.complete(pipeline="one.yaml").notes) == ("off", ())


def test_a_resumed_run_keeps_no_more_than_the_policy_allows(desk: Desk) -> None:
    desk.write(
        "two.yaml",
        "stages:\n  first: {kind: generate, role: bulk, prompt: Say hello.}\n"
        '  answer: {kind: generate, role: bulk, prompt: "{{ first }}!"}\noutput: answer\n',
    )
    model = ScriptedModel(["first words", UsageError("stop"), "second words"], name="scripted/one")
    with Fusion(profile="local", model=model, store=True) as fusion, pytest.raises(RunFailed) as failed:
        fusion.complete(pipeline="two.yaml")
    desk.rule("machine", 'content = "off"')
    with Fusion(profile="local", model=model, models={"scripted/one": model}, store=True) as fusion:
        assert fusion.resume(failed.value.result.run_id).text == "second words"
    kept = b"".join(path.read_bytes() for path in desk.work.parents[1].glob("runs.db*") if path.is_file())
    assert (b"first words" in kept, b"second words" in kept) == (True, False)


def test_the_policy_of_no_rules_allows_all() -> None:
    assert Policy().refusal(SUBJECT) is None
    assert Policy().kept("full") == ("full", None)
    assert Rules(path=Path("x"), table=PolicyTable()).refusal(SUBJECT) is None
