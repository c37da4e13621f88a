"""Context of a stage in a run: its inputs, outputs, models, tools, journal and events."""

from fusion.engine.context.context import RunContext as RunContext
from fusion.engine.context.inputs import RunInputs as RunInputs
from fusion.engine.context.models import RunModels as RunModels
from fusion.engine.context.parts import AskPerson as AskPerson
from fusion.engine.context.parts import OF_ITEM as OF_ITEM
from fusion.engine.context.parts import OF_STAGES as OF_STAGES
from fusion.engine.context.parts import Inner as Inner
from fusion.engine.context.parts import RunParts as RunParts
from fusion.engine.context.parts import Scope as Scope
from fusion.engine.context.sandbox import RunSandbox as RunSandbox
from fusion.engine.context.tools import RunTools as RunTools
