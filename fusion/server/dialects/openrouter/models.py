"""Models: names of OpenRouter's models as those that can be reached here."""

import re
from collections.abc import Iterator, Mapping
from typing import Final

from fusion.client.client import Fusion, first_models
from fusion.core.errors import MissingKeyError, PolicyError, UsageError
from fusion.models import catalog
from fusion.models.profiles import load_profiles
from fusion.pipeline.spec import Pipeline

_NAME: Final = re.compile(r"~?[A-Za-z0-9][\w.-]*(?:/~?[\w.-]+)*(?::[\w-]+)?")
_OF_A_FILE: Final = ("local:", "replay:")
"""Beginnings of names that name a file of the server; no request may."""
_PROVIDERS: Final[Mapping[str, str]] = {"google": "gemini", "x-ai": "xai", "mistralai": "mistral", "z-ai": "zai"}
"""Providers that have another name here."""
_LATEST: Final = "-latest"
_ROUTER: Final = "openrouter/"


def reached(fusion: Fusion, name: str) -> str:
    """Return the id of the model behind OpenRouter's name of it.

    The provider itself comes before OpenRouter, if its key is set. Raises UsageError for a model that cannot be
    reached, PolicyError for one that the policy forbids.
    """
    if not _NAME.fullmatch(name) or name.startswith(_OF_A_FILE):
        raise UsageError(f"{name!r} is no name of a model; write it as provider/model")
    failed: UsageError | None = None
    for model_id in dict.fromkeys(_candidates(name)):
        try:
            _check(fusion, model_id)
        except PolicyError:
            raise
        except UsageError as error:
            if failed is None or (isinstance(error, MissingKeyError) and not isinstance(failed, MissingKeyError)):
                failed = error
        else:
            return model_id
    assert failed is not None
    raise failed


def _candidates(name: str) -> Iterator[str]:
    """Yield the ids under which a model may be known, the best first."""
    provider, _, model = name.lstrip("~").partition("/")
    provider = _PROVIDERS.get(provider, provider)
    if name.startswith("~") and model.endswith(_LATEST):
        yield from _latest(provider, model.removesuffix(_LATEST))
    here = f"{provider}/{model}"
    yield from (one for one in (here, here.replace(".", "-")) if catalog.known(one))
    yield name
    if not name.startswith(_ROUTER):
        yield f"{_ROUTER}{name}"
        yield here


def _latest(provider: str, family: str) -> Iterator[str]:
    """Yield the models of the shipped profile of a provider that are of a family, such as `claude-opus`."""
    profile = load_profiles().get(provider)
    words = set(family.split("-"))
    for chain in () if profile is None else profile.roles.values():
        yield from (one for one in chain if words <= set(re.split(r"[/-]", one)))


def _check(fusion: Fusion, model_id: str) -> None:
    """Raise UsageError for a model that no run can ask."""
    first_models(fusion, "", pipeline=_probe(model_id))


def _probe(model_id: str) -> Pipeline:
    return Pipeline.from_data(
        {
            "name": "probe",
            "inputs": {"task": ""},
            "roles": {"probe": {"chain": [model_id]}},
            "stages": {"answer": {"kind": "generate", "role": "probe", "prompt": "{{ inputs.task }}"}},
            "output": "answer",
        }
    )
