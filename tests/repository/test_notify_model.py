"""The model of the notify protocol: the checker finds no error in it, but finds the deliberate errors."""

import importlib.util

import pytest

from .documents import ROOT

_spec = importlib.util.spec_from_file_location("check_notify_model", ROOT / "docs" / "spin" / "check.py")
model = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(model)


@pytest.mark.slow
@pytest.mark.parametrize("variant", model.VARIANTS)
def test_the_checker_finds_only_the_deliberate_errors(variant):
    reason = model.missing_tools()
    if reason is not None:
        pytest.skip(reason)
    assert model.check(variant)[0] == model.VARIANTS[variant][1]


def test_each_switch_of_the_model_is_tested_and_explained():
    text = model.MODEL.read_text()
    switches = {line.split()[1] for line in text.splitlines() if line.startswith(("#ifdef", "#ifndef"))}
    switches.discard("CALLBACKS")
    tried = {macro for macros, _ in model.VARIANTS.values() for macro in macros if "=" not in macro}
    assert switches == tried
    explained = (model.MODEL.parent / "README.md").read_text()
    assert [switch for switch in sorted(switches) if f"| `{switch}` |" not in explained] == []
