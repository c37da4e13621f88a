"""The JSON of the page: runs, items, calls, differences, maps and reports, over real HTTP."""

import json
from pathlib import Path
from typing import Any

import pytest

from fusion.server.page.graph import graph_of
from tests.conftest import pipeline
from tests.server.conftest import Served
from tests.server.page.conftest import PIPELINES, get, mapped, ran, started


@pytest.fixture
def served(paged: Any) -> Served:
    one: Served = paged()
    return one


def ids(page: Any) -> list[str]:
    return [run["run_id"] for run in page["runs"]]


TOKENS = {"ada": "token of ada", "bob": "token of bob", "operator": "operator"}


# The list.


def test_runs_are_listed_newest_first_in_pages(served: Served) -> None:
    made = [ran(served, [f"row {n}"]) for n in range(5)][::-1]
    first = get(served, "/api/runs", limit=2)
    second = get(served, "/api/runs", limit=2, after=first["next"])
    third = get(served, "/api/runs", limit=2, after=second["next"])
    assert [ids(first), ids(second), ids(third)] == [made[:2], made[2:4], made[4:]]
    assert third["next"] is None


@pytest.mark.parametrize(
    ("query", "found"),
    [
        ({"status": "ok"}, ["b", "a"]),
        ({"status": ["failed", "partial"]}, ["c"]),
        ({"pipeline": "work"}, ["c", "b", "a"]),
        ({"pipeline": "other"}, []),
        ({"tag": "team=search"}, ["b", "a"]),
        ({"tag": ["team=search", "day=1"]}, ["a"]),
        ({"q": "SEARCH day"}, ["a"]),
        ({"q": "such THING"}, ["c"]),
        ({"q": "nothing like it"}, []),
        ({"since": "2100-01-01"}, []),
        ({"before": "2100-01-01T00:00:00Z", "q": "scripted work"}, []),
        ({"before": "2100-01-01T00:00:00Z"}, ["c", "b", "a"]),
    ],
)
def test_runs_are_filtered(served: Served, query: dict[str, Any], found: list[str]) -> None:
    named = {
        ran(served, tags={"team": "search", "day": "1"}): "a",
        ran(served, tags={"team": "search"}): "b",
        ran(served, ["bad"], tags={"team": "x"}): "c",
    }
    assert [named[one] for one in ids(get(served, "/api/runs", **query))] == found


@pytest.mark.parametrize(
    "query",
    ["status=lost", "limit=9999", "limit=-1", "after=yesterday", "tag=team", "since=soon", "tag==x", "limit=x"],
)
def test_a_query_that_means_nothing_is_refused(served: Served, query: str) -> None:
    with served.client() as client:
        response = client.get(f"/api/runs?{query}")
    assert response.status_code == 400
    assert response.json()["error"]["message"]


# A run.


def test_a_run_has_its_graph_stages_money_and_receipt(served: Served) -> None:
    run_id = ran(served, tags={"team": "search"}, budget={"usd": 50})
    one = get(served, f"/api/runs/{run_id[:18]}")
    state = one["state"]
    assert (one["run"]["run_id"], one["run"]["tags"], state["status"]) == (run_id, {"team": "search"}, "ok")
    assert state["stages"]["work"].items() >= {"done": 3, "known": 3, "failed": 0, "calls": 3, "flying": 0}.items()
    assert [(node["name"], node["x"], node["output"]) for node in one["graph"]["nodes"]] == [
        ("work", 0, False),
        ("answer", 1, True),
    ]
    assert one["graph"]["edges"] == [{"from": "work", "to": "answer", "flows": True, "points": [[0, 0.0], [1, 0.0]]}]
    assert one["limits"] == {"usd": "50"}
    assert sum(float(line["usd"]) for line in one["receipt"]["lines"]) == pytest.approx(float(state["usd"]))
    assert one["receipt"]["lines"][0]["price_source"] == "scripted"
    assert one["answer"] == {"text": "the whole", "data": None, "whole": True}
    assert one["inputs"][0]["name"] == "rows"


def test_a_run_that_failed_says_why(served: Served) -> None:
    one = get(served, f"/api/runs/{ran(served, ['a', 'bad'])}")
    assert one["run"]["failure"]["reason"]
    assert one["state"]["status"] == "failed"
    assert [part["stage"] for part in one["failed"]] == ["work"]
    assert one["state"]["stages"]["work"].items() >= {"refused": 1, "status": "failed"}.items()


@pytest.mark.parametrize("content", ["digest", "off"])
def test_a_run_whose_texts_were_not_kept_is_shown_without_them(paged: Any, content: Any) -> None:
    served = paged(content=content)
    run_id = ran(served)
    one = get(served, f"/api/runs/{run_id}")
    assert (one["inputs"], one["graph"], one["answer"]) == (None, None, None)
    assert get(served, f"/api/runs/{run_id}/calls/1")["messages"] is None


def test_items_come_in_pages(served: Served) -> None:
    run_id = ran(served, [f"row {n}" for n in range(7)])
    page = get(served, f"/api/runs/{run_id}/items", stage="work", offset=5, limit=5)
    assert page["total"] == 7
    assert [(one["index"], one["calls"]) for one in page["items"]] == [(5, 1), (6, 1)]
    assert page["items"][0]["value"] == "did do row 5"
    assert float(page["items"][0]["usd"]) > 0
    assert page["items"][0]["models"] == ["scripted/bulk"]


def test_the_items_of_a_plan_have_their_titles(served: Served) -> None:
    run_id = ran(served, pipeline=PIPELINES["planned"], inputs={"task": "do it"})
    assert get(served, f"/api/runs/{run_id}")["plan"] == ["part 1", "part 2", "part 3"]
    titles = [one["title"] for one in get(served, f"/api/runs/{run_id}/items", stage="work")["items"]]
    assert titles == ["part 1", "part 2", "part 3"]


def test_calls_come_in_pages_by_stage_and_item(served: Served) -> None:
    run_id = ran(served, ["a", "b", "c"])
    first = get(served, f"/api/runs/{run_id}/calls", limit=2)
    assert [call["number"] for call in first["calls"]] == [1, 2]
    rest = get(served, f"/api/runs/{run_id}/calls", limit=2, after=first["next"])
    assert ([call["number"] for call in rest["calls"]], rest["next"]) == ([3, 4], None)
    of_item = get(served, f"/api/runs/{run_id}/calls", stage="work", item=1)["calls"]
    assert [(call["stage"], call["item"]) for call in of_item] == [("work", 1)]


def test_a_call_has_its_texts_tokens_and_price(served: Served) -> None:
    run_id = ran(served, ["a"])
    one = get(served, f"/api/runs/{run_id}/calls/1")
    assert one["messages"][-1]["content"] == "do a"
    assert one["call"].items() >= {"text": "did do a", "asked": "scripted/bulk", "finish_reason": "stop"}.items()
    assert (one["price"]["input"], one["price_source"]) == ("0.000001", "scripted")
    assert [attempt["state"] for attempt in one["attempts"]] == ["settled"]


def test_a_call_names_its_retries(served: Served, without_pauses: None) -> None:
    run_id = ran(served, ["flaky"])
    one = get(served, f"/api/runs/{run_id}/calls/1")
    assert one["call"]["state"] == "failed"
    assert len(one["attempts"]) > 1
    assert {event["type"] for event in one["events"]} == {"attempt_failed"}


@pytest.mark.parametrize(
    "path",
    ["/api/runs/none", "/api/runs/none/items?stage=work", "/api/runs/none/events", "/api/maps/none", "/api/bench/x"],
)
def test_an_id_that_means_nothing_is_404(served: Served, path: str) -> None:
    with served.client() as client:
        response = client.get(path)
    assert response.status_code == 404
    assert "none" in response.json()["error"]["message"] or "x" in response.json()["error"]["message"]


def test_two_runs_are_compared(served: Served) -> None:
    a, b = ran(served, ["a", "b"]), ran(served, ["a", "c"])
    diff = get(served, "/api/diff", a=a, b=b)
    assert diff["counts"] == {"same": 2, "different": 1}
    assert any("c" in line for line in diff["runs"]["inputs"][0]["diff"])


# Maps and reports.


def test_maps_have_their_progress_and_rows(served: Served, tmp_path: Path) -> None:
    rows = [{"task": f"task {n}"} for n in range(3)]
    done = mapped(served, rows, tmp_path / "out.jsonl")
    listed = get(served, "/api/maps")["maps"][0]
    assert (listed["map_id"], listed["ok"], listed["failed"]) == (done, 3, 0)
    assert get(served, f"/api/maps/{done}")["map"]["rows"] == 3
    found = get(served, f"/api/maps/{done}/rows", limit=2)["rows"]
    assert [row["number"] for row in found] == [3, 2]
    assert get(served, f"/api/runs/{found[0]['run_id']}")["answer"]["text"] == "the whole"
    assert get(served, "/api/diff", a=done, b=done)["maps"]["counts"] == {"same": 3}


def test_reports_are_those_of_the_folder(paged: Any, tmp_path: Path) -> None:
    folder = tmp_path / "reports" / "first"
    folder.mkdir(parents=True)
    (folder / "report.html").write_text("<!doctype html><title>report</title>")
    outcomes = [{"arm": "fast", "item": "1", "score": 1, "cost": "0.2"}, {"arm": "fast", "item": "2", "score": 0}]
    results = {"name": "first one", "items": [{}, {}], "arms": [{"name": "fast", "kind": "pipeline"}]}
    (folder / "results.json").write_text(json.dumps({**results, "outcomes": outcomes}))
    (tmp_path / "reports" / "torn").mkdir()
    (tmp_path / "reports" / "torn" / "results.json").write_text("{")
    served = paged(table={"reports": tmp_path / "reports"})
    listed = get(served, "/api/bench")["reports"]
    assert [(one["id"], one["readable"], one["page"]) for one in listed] == [
        ("first", True, True),
        ("torn", False, False),
    ]
    arm = get(served, "/api/bench/first")["arms"][0]
    assert (arm["name"], arm["score"], arm["usd"]) == ("fast", 0.5, 0.2)
    with served.client() as client:
        page = client.get("/bench/first/report.html")
        assert "sandbox" in page.headers["content-security-policy"]
        assert client.get("/bench/..%2F..%2Fetc/report.html").status_code == 404


# New runs.


def test_the_form_offers_what_is_served(served: Served) -> None:
    offered = {one["name"]: one for one in get(served, "/api/pipelines")["pipelines"]}
    assert offered.keys() == {"work", "planned", "one"}
    assert offered["planned"]["limits"] == {"usd": "5"}
    assert offered["planned"]["inputs"][0].items() >= {"name": "task", "required": True, "prompt": True}.items()


def test_a_form_is_quoted_and_started(served: Served) -> None:
    form = {"pipeline": "one", "inputs": {"task": "do it"}, "usd": "0.5"}
    quote = served.post("/api/quote", form).json()
    assert float(quote["usd"]["likely"]) <= float(quote["usd"]["cap"]) <= 0.5
    run_id = started(served, "one")
    assert get(served, "/api/runs", tag="from=page")["runs"][0]["run_id"] == run_id


@pytest.mark.parametrize(
    ("form", "status"),
    [
        ({"pipeline": "/etc/passwd", "inputs": {}}, 404),
        ({"pipeline": "../one", "inputs": {}}, 404),
        ({"pipeline": 3, "inputs": {}}, 400),
        ({"pipeline": "one", "inputs": {"task": 3}}, 400),
        ({"pipeline": "one", "inputs": {}}, 400),
        ({"pipeline": "one", "inputs": {"task": "x"}, "usd": "lots"}, 400),
        ({"pipeline": "one", "inputs": {"task": "x"}, "usd": "NaN"}, 400),
        ({"pipeline": "one", "inputs": {"task": "x"}, "usd": -1}, 400),
        ({"pipeline": "one", "inputs": {"other": "x"}}, 400),
    ],
)
@pytest.mark.parametrize("path", ["/api/quote", "/api/runs"])
def test_a_form_that_is_wrong_is_refused(served: Served, path: str, form: Any, status: int) -> None:
    response = served.post(path, form)
    assert (response.status_code, bool(response.json()["error"]["message"])) == (status, True)


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"origin": "https://evil.example"}, 403),
        ({"origin": "null"}, 403),
        ({"sec_fetch_site": "cross-site", "sec_fetch_mode": "no-cors"}, 403),
        ({"content_type": "text/plain"}, 415),
        ({"content_type": "application/x-www-form-urlencoded"}, 415),
        ({"sec_fetch_site": "same-origin", "sec_fetch_mode": "cors"}, 200),
    ],
)
def test_a_form_of_another_site_is_refused(served: Served, headers: dict[str, str], status: int) -> None:
    form = {"pipeline": "one", "inputs": {"task": "do it"}}
    assert served.post("/api/quote", form, **headers).status_code == status


def test_a_budget_above_that_of_the_server_is_lowered(paged: Any) -> None:
    served = paged(table={"budget": {"usd": "0.25"}})
    run_id = started(served, "one", task="do it")
    assert get(served, f"/api/runs/{run_id}")["limits"] == {"usd": "0.25"}


@pytest.mark.parametrize("path", ["/", "/static/app.js", "/api/runs", "/static/vendor/preact.js"])
def test_every_answer_has_the_headers_of_a_strict_page(served: Served, path: str) -> None:
    with served.client() as client:
        response = client.get(path)
    assert response.status_code == 200
    policy = response.headers["content-security-policy"]
    assert policy.startswith("default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src")
    assert "unsafe" not in policy
    assert response.headers["x-content-type-options"] == "nosniff"


# The graph.


def test_lines_that_skip_a_layer_pass_beside_the_stages_between() -> None:
    text = """
inputs: {task: The task.}
stages:
  first: {kind: generate, role: bulk, prompt: "{{ inputs.task }}"}
  second: {kind: generate, role: bulk, prompt: "{{ first }}"}
  other: {kind: generate, role: bulk, prompt: "{{ first }}"}
  last: {kind: generate, role: bulk, prompt: "{{ first }} {{ second }} {{ other }} {{ inputs.task }}"}
output: last
"""
    from fusion import Fusion
    from fusion.client.client import loaded

    with Fusion(profile="local") as fusion:
        graph = graph_of(loaded(fusion, pipeline(text)))
    assert {node["name"]: (node["x"], node["y"]) for node in graph["nodes"]} == {
        "first": (0, 0.0),
        "second": (1, -0.5),
        "other": (1, 0.5),
        "last": (2, 0.0),
    }
    assert {(edge["from"], edge["to"]) for edge in graph["edges"]} == {
        ("first", "second"),
        ("first", "other"),
        ("second", "last"),
        ("other", "last"),
    }


# The login.


@pytest.fixture
def locked(paged: Any, monkeypatch: pytest.MonkeyPatch) -> Served:
    monkeypatch.setenv("FUSION_SERVER_TOKEN", "a secret; with a sign")
    one: Served = paged()
    return one


def test_the_page_holds_no_data_and_needs_no_token(locked: Served) -> None:
    with locked.client() as client:
        assert client.get("/").status_code == client.get("/static/app.js").status_code == 200
        for path in ("/api/runs", "/api/pipelines", "/api/bench", "/bench/x/report.html", "/api/runs/x/events"):
            assert client.get(path).status_code == 401
        assert client.post("/login").status_code == 401
        assert client.post("/", json={}).status_code in (401, 405)


def test_a_token_becomes_a_cookie_of_this_site_alone(locked: Served) -> None:
    with locked.client() as client:
        wrong = client.post("/login", headers={"authorization": "Bearer other"})
        assert (wrong.status_code, wrong.headers.get("set-cookie")) == (401, None)
        given = client.post("/login", headers={"authorization": "Bearer a secret; with a sign"})
        cookie = given.headers["set-cookie"].lower()
        assert (given.status_code, "httponly" in cookie, "samesite=strict" in cookie) == (204, True, True)
        assert client.get("/api/runs").status_code == 200
        form = {"pipeline": "one", "inputs": {"task": "do it"}}
        assert client.post("/api/quote", json=form).status_code == 200
        foreign = {"origin": "https://evil.example"}
        assert client.post("/api/quote", json=form, headers=foreign).status_code == 403
        client.post("/logout")
        assert client.get("/api/runs").status_code == 401


def test_a_caller_sees_the_runs_of_its_own(paged: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("FUSION_SERVER_TOKEN", "operator")
    monkeypatch.setenv("ADA", "token of ada")
    monkeypatch.setenv("BOB", "token of bob")
    served = paged(table={"tokens": {"ada": "ADA", "bob": "BOB"}})
    mapped(served, [{"task": "x"}], tmp_path / "out.jsonl")
    ids = {}
    clients = {name: served.client(headers={"x-api-key": token}) for name, token in TOKENS.items()}
    for name, client in clients.items():
        form = {"pipeline": "one", "inputs": {"task": "do it"}}
        ids[name] = client.post("/api/runs", json=form).json()["run_id"]
    seen = {
        name: {run["run_id"] for run in client.get("/api/runs").json()["runs"]} for name, client in clients.items()
    }
    assert seen == {"ada": {ids["ada"]}, "bob": {ids["bob"]}, "operator": set(ids.values())}
    bob = clients["bob"]
    assert bob.get("/api/runs?tag=caller=ada").json()["runs"][0]["run_id"] == ids["bob"]
    for path in ("", "/events", "/calls", "/calls/1", "/items?stage=answer"):
        assert bob.get(f"/api/runs/{ids['ada']}{path}").status_code == 404
        assert bob.get(f"/api/runs/{ids['bob']}{path}").status_code == 200
    assert bob.get(f"/api/runs/{ids['bob'][:-1]}").status_code == 404
    assert bob.get(f"/api/diff?a={ids['bob']}&b={ids['ada']}").status_code == 404
    assert bob.get("/api/maps").json() == {"maps": []}
    for path in ("/api/maps/nightly", "/api/maps/nightly/rows", "/api/diff?a=nightly&b=nightly"):
        assert bob.get(path).status_code == 404
        assert clients["operator"].get(path).status_code == 200
    for client in clients.values():
        client.close()
