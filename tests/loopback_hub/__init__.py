"""A small Hub on this machine for tests: repositories in memory, served to the genuine client, with faults to inject.

with LoopbackHub() as hub:
    hub.add_user("org", token="hf_org")
    commit = hub.publish("org/x", {"config.json": b"{}"}, tag="v1.0.0")
    hub.faults.answer(503, path="/resolve/", times=1)
    Hub(endpoint=hub.endpoint, token="hf_org").resolve("org/x", "v1.0.0")
    assert hub.requests[-1].path == "/api/models/org/x/revision/v1.0.0"
"""

from loopback_hub.faults import Fault, Faults
from loopback_hub.server import LoopbackHub
from loopback_hub.store import Repository
from loopback_hub.wire import Request

__all__ = ["Fault", "Faults", "LoopbackHub", "Repository", "Request"]
