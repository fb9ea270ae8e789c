"""What a tracing observer is built from, and the names in its spans."""

import importlib
from typing import Any

import pytest
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.semconv._incubating.attributes import gen_ai_attributes
from opentelemetry.semconv.attributes import (
    error_attributes,
    exception_attributes,
    service_attributes,
    telemetry_attributes,
)
from opentelemetry.semconv.schemas import Schemas
from otlp_receiver import OtlpReceiver

from trackside.app.delivery import ObserverOptionError
from trackside.app.observers.tracing import TracingObserver
from trackside.app.observers.tracing import _conventions as names
from trackside.app.observers.tracing._export import Export
from trackside.app.observers.tracing._options import traces_url

HERE = "http://127.0.0.1:1"


def test_the_names_are_those_of_the_pinned_conventions() -> None:
    assert Schemas[f"V{names.VERSION.replace('.', '_')}"].value == names.SCHEMA_URL
    modules = (gen_ai_attributes, error_attributes, exception_attributes, service_attributes, telemetry_attributes)
    theirs = {value for module in modules for value in vars(module).values() if isinstance(value, str)}
    operations = {operation.value for operation in gen_ai_attributes.GenAiOperationNameValues}
    ours = {name: value for name, value in vars(names).items() if name.isupper() and "." in value}
    ours.pop("VERSION")
    ours.pop("SCHEMA_URL")
    assert {value for value in ours.values() if not value.startswith("trackside.")} <= theirs
    assert {names.CHAT, names.EXECUTE_TOOL, names.INVOKE_AGENT} <= operations


def test_no_name_is_one_that_the_conventions_have_given_up() -> None:
    given_up = {
        value
        for name, value in vars(gen_ai_attributes).items()
        if name in {"GEN_AI_SYSTEM", "GEN_AI_PROMPT", "GEN_AI_COMPLETION", "GEN_AI_USAGE_PROMPT_TOKENS"}
    }
    assert len(given_up) == 4
    assert not given_up & {value for value in vars(names).values() if isinstance(value, str)}


@pytest.mark.parametrize(
    ("endpoint", "url"),
    [
        ("http://localhost:4318", "http://localhost:4318/v1/traces"),
        ("http://localhost:4318/", "http://localhost:4318/v1/traces"),
        ("https://otel.example/v1/traces", "https://otel.example/v1/traces"),
        ("https://otel.example/custom/", "https://otel.example/custom/"),
        ("http://[::1]:4318", "http://[::1]:4318/v1/traces"),
    ],
)
def test_an_endpoint_without_a_path_gets_that_of_otlp(endpoint: str, url: str) -> None:
    assert traces_url(endpoint) == url


@pytest.mark.parametrize(
    ("options", "option", "why"),
    [
        ({"endpoint": "localhost:4318"}, "endpoint", "http://"),
        ({"endpoint": "grpc://localhost:4317"}, "endpoint", "gRPC"),
        ({"endpoint": "http://"}, "endpoint", "no host"),
        ({"endpoint": "http://localhost:0"}, "endpoint", "port 0"),
        ({"endpoint": "http://localhost:99999"}, "endpoint", "host or its port"),
        ({"endpoint": "http://[::1"}, "endpoint", "host or its port"),
        ({"endpoint": "http://me:hunter2@localhost"}, "endpoint", "headers"),
        ({"endpoint": "http://localhost?key=hunter2"}, "endpoint", "query"),
        ({"endpoint": "http://local host"}, "endpoint", "not a URL"),
        ({"endpoint": 4318}, "endpoint", "not a URL"),
        ({"endpoint": HERE, "headers": ["x"]}, "headers", "table"),
        ({"endpoint": HERE, "headers": {"x y": "1"}}, "headers", "not the name"),
        ({"endpoint": HERE, "headers": {"x-key": "hunter2\r\nx: y"}}, "headers", "x-key"),
        ({"endpoint": HERE, "headers": {"x-key": 7}}, "headers", "x-key"),
        ({"endpoint": HERE, "headers": {"Content-Type": "text/plain"}}, "headers", "OTLP itself"),
        ({"endpoint": HERE, "service_name": " "}, "service_name", "name of your app"),
        ({"endpoint": HERE, "service_name": 7}, "service_name", "name of your app"),
        ({"headers": {"x": "y"}}, "headers", "no `endpoint`"),
        ({"service_name": "shop"}, "service_name", "no `endpoint`"),
        ({"capture_content": "yes"}, "capture_content", "true or false"),
        ({"tracer_provider": "global"}, "tracer_provider", "get_tracer"),
    ],
    ids=str,
)
def test_an_option_that_does_not_fit_is_refused_without_saying_secrets(
    options: dict[str, Any], option: str, why: str
) -> None:
    with pytest.raises(ObserverOptionError) as refused:
        TracingObserver(**options)
    assert refused.value.details["option"] == option
    assert why in str(refused.value)
    assert "hunter2" not in str(refused.value)


def test_an_endpoint_beside_a_provider_is_refused() -> None:
    with pytest.raises(ObserverOptionError, match="endpoint: there is a tracer_provider"):
        TracingObserver(endpoint=HERE, tracer_provider=TracerProvider(shutdown_on_exit=False))


def test_without_the_package_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    package = "trackside.app.observers.tracing"
    for name in (package, f"{package}._observer"):
        monkeypatch.delitem(importlib.import_module("sys").modules, name)
    monkeypatch.setitem(importlib.import_module("sys").modules, "opentelemetry", None)
    with pytest.raises(ModuleNotFoundError, match=r"pip install 'trackside\[otel\]'"):
        importlib.import_module(package)


@pytest.mark.parametrize("variable", ["OTEL_EXPORTER_OTLP_HEADERS", "OTEL_EXPORTER_OTLP_TRACES_HEADERS"])
@pytest.mark.parametrize(
    ("headers", "sent"),
    [({}, {"x-key": "theirs", "x-tenant": "shop 1"}), ({"X-Key": "ours"}, {"x-key": "ours", "x-tenant": "shop 1"})],
)
async def test_headers_of_the_environment_go_with_each_request_beside_the_options(
    monkeypatch: pytest.MonkeyPatch, variable: str, headers: dict[str, str], sent: dict[str, str]
) -> None:
    monkeypatch.setenv(variable, "x-key=theirs,x-tenant=shop%201")
    with OtlpReceiver() as receiver:
        export = Export(receiver.url + "/v1/traces", headers, None)
        export.provider.get_tracer("test").start_span("span").end()
        await export.close(10)
        (request,) = receiver.requests
    assert {name: value for name, value in request.headers.items() if name.startswith("x-")} == sent
