from __future__ import annotations

import pytest
from airflow.providers_manager import ProvidersManager
from airflow.sdk.providers_manager_runtime import ProvidersManagerTaskRuntime

from panda_airflow.get_provider_info import connection_fields, get_provider_info
from panda_airflow.hooks.panda import PandaHook
from panda_airflow.links.panda import PandaTaskLink
from panda_airflow.operators.base import PandaTaskOperator
from panda_airflow.sensors.task import PandaWaitTaskStatusSensor


@pytest.fixture(scope="module")
def manager() -> ProvidersManager:
    manager: ProvidersManager = ProvidersManager()
    if "panda-airflow" not in manager.providers:
        pytest.skip("the package is not installed here, so Airflow cannot discover it")
    return manager


def test_airflow_finds_the_hook_and_can_test_its_connections(manager: ProvidersManager) -> None:
    hook = ProvidersManagerTaskRuntime().hooks["panda"]
    assert hook is not None
    assert hook.hook_class_name == f"{PandaHook.__module__}.PandaHook"
    assert (hook.connection_type, hook.hook_name, hook.connection_testable) == ("panda", "PanDA", True)
    assert hook.connection_id_attribute_name == PandaHook.conn_name_attr


def test_airflow_offers_a_field_for_every_setting(manager: ProvidersManager) -> None:
    offered = {
        widget.field_name
        for name, widget in manager.connection_form_widgets.items()
        if name.startswith("extra__panda__")
    }
    assert offered == connection_fields().keys()
    assert manager.field_behaviours["panda"]["relabeling"]["password"] == "Token"


def test_airflow_may_show_the_link_of_every_step(manager: ProvidersManager) -> None:
    name = f"{PandaTaskLink.__module__}.PandaTaskLink"
    assert name in manager.extra_links_class_names
    for step in (PandaTaskOperator, PandaWaitTaskStatusSensor):
        assert [type(link) for link in step.operator_extra_links] == [PandaTaskLink]


def test_what_the_package_says_is_what_airflow_reads(manager: ProvidersManager) -> None:
    assert manager.providers["panda-airflow"].data.items() >= get_provider_info().items()
