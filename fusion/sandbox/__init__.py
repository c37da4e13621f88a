"""Sandbox: processes that can reach no file, key or network of the machine, under limits."""

from fusion.sandbox.base import Sandbox as Sandbox
from fusion.sandbox.door import DEFAULT as DEFAULT
from fusion.sandbox.door import SandboxDoor as SandboxDoor
