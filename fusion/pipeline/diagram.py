"""Diagram: a pipeline drawn as text, Mermaid or DOT, or described as JSON."""

import json
from typing import Any, Literal

from fusion.pipeline.dataflow import Dataflow
from fusion.pipeline.spec import Pipeline
from fusion.prompts.template import Prompts
from fusion.stages.base import Stage

Format = Literal["text", "mermaid", "dot", "json"]


def draw(pipeline: Pipeline, prompts: Prompts, format: Format = "text") -> str:  # noqa: A002
    """Draw a checked pipeline as lines of text, Mermaid, DOT (of Graphviz), or JSON.

    `=>` marks a field that flows item by item, `->` one that is waited for; Mermaid and DOT draw flows thick.
    """
    picture = _Picture(pipeline, prompts)
    match format:
        case "text":
            return picture.text()
        case "mermaid":
            return picture.mermaid()
        case "dot":
            return picture.dot()
        case "json":
            return picture.json()


class _Picture:
    """Graph of stages. Each edge holds the fields that are read, with True for those that flow."""

    def __init__(self, pipeline: Pipeline, prompts: Prompts) -> None:
        import networkx

        self._pipeline = pipeline
        dataflow = Dataflow(pipeline, prompts)
        self._edges = dataflow.edges
        self._reads = {name: sorted(parts) for name, parts in dataflow.outputs.items()}
        self._graph: networkx.DiGraph = networkx.DiGraph()
        self._graph.add_nodes_from(pipeline.stages)
        for edge in self._edges:
            fields = self._graph.get_edge_data(edge.source, edge.target, {"fields": {}})["fields"]
            self._graph.add_edge(edge.source, edge.target, fields={**fields, edge.field: edge.flows})

    def text(self) -> str:
        levels = self._levels()
        rows = [
            [str(levels[name]), name, self._stage(name).kind, _roles(self._stage(name)) or "-", self._comes_in(name)]
            for name in sorted(levels, key=lambda name: levels[name])
        ]
        widths = [max(len(row[column]) for row in rows) for column in range(4)]
        cells = [[cell.ljust(width) for cell, width in zip(row, [*widths, 0], strict=True)] for row in rows]
        lines = ["  ".join(row).rstrip() for row in cells]
        outputs = [f"{_output(name)}: {source}" for name, source in self._pipeline.outputs.items()]
        return "\n".join([self._pipeline.name, *lines, *outputs]) + "\n"

    def mermaid(self) -> str:
        lines = ["flowchart TD"]
        for name, stage in self._pipeline.stages.items():
            lines.append(f'  s_{name}["{_mermaid(name)}<br/>{_mermaid(_what(stage))}"]')
        for source, target, fields in self._shown():
            arrow = "==>" if any(fields.values()) else "-->"
            lines.append(f'  s_{source} {arrow}|"{_mermaid(", ".join(fields))}"| s_{target}')
        for at, (name, stages) in enumerate(self._reads.items()):
            lines.append(f'  output_{at}(["{_mermaid(_output(name))}"])')
            lines += [f"  s_{stage} --> output_{at}" for stage in stages]
        return "\n".join(lines) + "\n"

    def dot(self) -> str:
        lines = [f"digraph {_dot(self._pipeline.name)} {{", "  node [shape=box]"]
        for name, stage in self._pipeline.stages.items():
            lines.append(f"  s_{name} [label={_dot(name, _what(stage))}]")
        for source, target, fields in self._shown():
            style = ", style=bold" if any(fields.values()) else ""
            lines.append(f"  s_{source} -> s_{target} [label={_dot(', '.join(fields))}{style}]")
        for at, (name, stages) in enumerate(self._reads.items()):
            lines.append(f"  output_{at} [label={_dot(_output(name))}, shape=oval]")
            lines += [f"  s_{stage} -> output_{at}" for stage in stages]
        return "\n".join([*lines, "}"]) + "\n"

    def json(self) -> str:
        levels = self._levels()
        data = {
            "name": self._pipeline.name,
            "inputs": list(self._pipeline.inputs),
            "stages": [
                {
                    "name": name,
                    "kind": stage.kind,
                    "level": levels[name],
                    "roles": _role_names(stage),
                    "fields": [output.name for output in stage.output_fields],
                }
                for name, stage in self._pipeline.stages.items()
            ],
            "edges": [edge._asdict() for edge in self._edges],
            "output": {
                name or "output": {"expression": source, "stages": self._reads[name]}
                for name, source in self._pipeline.outputs.items()
            },
        }
        return json.dumps(data, indent=2, ensure_ascii=False) + "\n"

    def _stage(self, name: str) -> Stage:
        return self._pipeline.stages[name]

    def _levels(self) -> dict[str, int]:
        """Return the level of each stage: one more than the highest level that it reads."""
        import networkx

        generations = enumerate(networkx.topological_generations(self._graph), start=1)
        levels = {name: level for level, names in generations for name in names}
        return {name: levels[name] for name in self._pipeline.stages}

    def _shown(self) -> list[tuple[str, str, dict[str, bool]]]:
        """Return the edges to draw: flows, and those that no chain of other edges implies."""
        import networkx

        needed = set(networkx.transitive_reduction(self._graph).edges)
        every = self._graph.edges(data="fields")
        return [edge for edge in every if edge[:2] in needed or any(edge[2].values())]

    def _comes_in(self, name: str) -> str:
        """List the reads of a stage: `plan.goal ->`, `work.items =>`."""
        return ", ".join(
            f"{source}.{field} {'=>' if flows else '->'}"
            for source, _, fields in self._graph.in_edges(name, data="fields")
            for field, flows in fields.items()
        )


def _role_names(stage: Stage) -> list[str]:
    return list(dict.fromkeys(role for _, role in stage.roles()))


def _roles(stage: Stage) -> str:
    return ", ".join(_role_names(stage))


def _what(stage: Stage) -> str:
    """Return the kind and roles of a stage."""
    return f"{stage.kind}: {_roles(stage) or '-'}"


def _output(name: str) -> str:
    return f"output {name}".strip()


def _mermaid(text: Any) -> str:
    """Escape text for a quoted Mermaid label."""
    return "".join(c if c.isalnum() or c in " _-.,:" else f"#{ord(c)};" for c in str(text))


def _dot(*lines: str) -> str:
    """Quote lines of text as one DOT label."""
    quoted = [" ".join(line.split()).replace("\\", "\\\\").replace('"', '\\"') for line in lines]
    return '"' + "\\n".join(quoted) + '"'
