"""Both halves do what the interfaces promise."""

from __future__ import annotations

from ldm_identity import IdentityConfig, IdentityDecoder, IdentityEncoder

from ldm_registry.testing import ComponentSuite


class TestIdentityEncoder(ComponentSuite):
    component = IdentityEncoder
    config = IdentityConfig()


class TestIdentityDecoder(ComponentSuite):
    component = IdentityDecoder
    config = IdentityConfig(channels=2)
