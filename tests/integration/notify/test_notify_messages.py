"""What people get by mail and over HTTP, and what no agent's text and no failure shows to them or to the log."""

import asyncio
import json
import logging
import re
from typing import Any
from xml.etree import ElementTree as ET

import pytest
from inboxes import HttpInbox, SmtpInbox
from tests.integration.notify.conftest import notifier

from trackside import LifecycleEventType, RunLifecycleEvent
from trackside.app.delivery import DeliveryError
from trackside.app.observers.notify import NotifyObserver
from trackside.testing.events import make_event

HOSTILE = (
    "it broke\r\nBcc: everyone@example.org\r\n\r\n<script>alert(1)</script> <!channel> @everyone \x1b[31m\u202e \ud83d"
)


def failed(error: str = "it broke", **says: Any) -> RunLifecycleEvent:
    data = {"total_tokens": 52, "cost_usd": 0.25, "duration_seconds": 1.5}
    payload = {
        "agent": "billing",
        "status": "error",
        "error": error,
        "error_type": "ValueError",
        "completion_data": data,
    }
    return make_event(LifecycleEventType.RUN_FAILED, payload=payload | says)


async def made(**options: Any) -> NotifyObserver:
    return await asyncio.to_thread(lambda: NotifyObserver(**options))


def mail_address(mails: SmtpInbox) -> str:
    return f"mailto://127.0.0.1:{mails.port}/?from=trackside@example.org&to=team@example.org&mode=insecure&format=text"


async def test_a_failed_run_is_told_by_mail(mails: SmtpInbox) -> None:
    observer = await made(to=mail_address(mails))
    await observer.on_event(failed())
    (mail,) = mails.mails
    assert mail.message["Subject"] == "billing: error (ValueError)"
    assert mail.message["To"] == "team@example.org"
    body = mail.message.get_content()
    for said in ("it broke", "Run run-1", "Thread thread-1", "Took 1.5 s", "Tokens 52", "Cost 0.2500 USD"):
        assert said in body


@pytest.mark.parametrize("format", ["text", "html"])
async def test_a_text_of_an_agent_adds_no_header_and_no_markup_to_a_mail(mails: SmtpInbox, format: str) -> None:
    observer = await made(to=mail_address(mails).replace("format=text", f"format={format}"))
    await observer.on_event(failed(HOSTILE, agent=HOSTILE, error_type=HOSTILE))
    (mail,) = mails.mails
    message = mail.message
    assert message["Bcc"] is None
    assert len(mail.recipients) == 1
    assert "\n" not in message["Subject"]
    parts = [part for part in message.walk() if part.get_content_maintype() == "text"]
    assert any("it broke" in part.get_content() for part in parts)
    assert not any("<script" in part.get_content() for part in parts if part.get_content_subtype() == "html")
    assert not any("\x1b" in part.get_content() for part in parts)


async def test_a_text_of_an_agent_calls_nobody_in_a_chat(inbox: HttpInbox) -> None:
    observer = await notifier(inbox)
    await observer.on_event(failed(HOSTILE))
    message = json.loads(inbox.requests[0].body)["message"]
    assert "alert(1)" in message
    assert "<!channel>" not in message
    assert "@everyone " not in message


@pytest.mark.parametrize(
    ("text", "means"),
    [
        ("see [https://bank.example](https://evil.example)", "]("),
        ("![a picture](https://evil.example)", "]("),
        ("see [https://bank.example][1]\n\n[1]: https://evil.example", "]:"),
        ("@**all** come and see", "@*"),
        ("@_**everyone** come and see", "@_*"),
        ("@*developers* come and see", "@*"),
        ('<at user_id="all"></at> come and see', "<at"),
        ("come </AT>", "</"),
        ("see <https://evil.example>", "<h"),
    ],
)
async def test_a_text_of_an_agent_leads_nowhere_under_a_false_name_and_calls_nobody_in_any_syntax(
    inbox: HttpInbox, text: str, means: str
) -> None:
    observer = await notifier(inbox, templates={"run_failed": {"title": "$error", "body": "$error"}})
    await observer.on_event(failed(text))
    said = json.loads(inbox.requests[0].body)
    for place in ("title", "message"):
        assert means not in said[place]
    assert said["message"].replace("\u2060", "") == text


@pytest.mark.parametrize(
    "text",
    ["see <https://evil.example|https://bank.example>", "a | b: <<evil.example|bank|more>", "<a>|<evil.example\n|b>"],
)
async def test_a_text_of_an_agent_has_no_link_of_slack_which_others_make_their_own_of(
    inbox: HttpInbox, text: str
) -> None:
    observer = await notifier(inbox, templates={"run_failed": {"title": "$error", "body": "$error"}})
    await observer.on_event(failed(text))
    said = json.loads(inbox.requests[0].body)
    for place in ("title", "message"):
        assert re.search(r"<[^<|]+\|[^>]+>", said[place]) is None  # as Mattermost looks for them
    assert said["message"].replace("\u2060", "").replace("\u01c0", "|") == text


async def test_a_run_is_told_as_xml(inbox: HttpInbox) -> None:
    observer = await made(to=f"xml://127.0.0.1:{inbox.port}/hook")
    await observer.on_event(failed(HOSTILE))
    (request,) = inbox.requests
    assert request.path == "/hook"
    said = {element.tag.rpartition("}")[2]: element.text for element in ET.fromstring(request.body).iter()}
    assert said["Subject"] == "billing: error (ValueError)"
    assert "<script>" in (said["Message"] or "").replace("\u2060", "")


async def test_a_run_is_told_by_ntfy(inbox: HttpInbox) -> None:
    observer = await made(to=f"ntfy://127.0.0.1:{inbox.port}/agents")
    await observer.on_event(failed())
    said = json.loads(inbox.requests[0].body)
    assert (said["topic"], said["title"]) == ("agents", "billing: error (ValueError)")


async def test_long_texts_are_cut(inbox: HttpInbox) -> None:
    observer = await notifier(
        inbox, templates={"run_failed": {"title": "$error", "body": "$error $error $error $error $error"}}
    )
    await observer.on_event(failed("x" * 1_000_000))
    said = json.loads(inbox.requests[0].body)
    assert (len(said["title"]), len(said["message"])) == (200, 4_000)


async def test_a_title_is_one_line_whatever_its_fields_say(inbox: HttpInbox) -> None:
    observer = await notifier(inbox, on=[{"title": "$agent\n$error"}])
    await observer.on_event(failed("one\ntwo\tthree  four"))
    assert json.loads(inbox.requests[0].body)["title"] == "billing one two three four"


async def test_own_texts_have_the_fields_that_they_name(inbox: HttpInbox) -> None:
    rules = [{"agent": "billing", "title": "$$ $agent"}, {}]
    templates = {"run_failed": {"title": "${status} of $agent", "body": "$error_type $cost $tokens $reason."}}
    observer = await notifier(inbox, on=rules, templates=templates)
    await observer.on_event(failed())
    await observer.on_event(failed(agent="search", completion_data=None))
    said = [json.loads(request.body) for request in inbox.requests]
    assert [(one["title"], one["message"]) for one in said] == [
        ("$ billing", "ValueError 0.2500 USD 52 ."),
        ("error of search", "ValueError – – ."),
    ]


SECRETS = ("h7Kd-user", "s3cret-pass", "t0ken-in-path", "t0ken-in-query")


@pytest.mark.parametrize("fails_by", ["status", "hanging up", "crash"])
async def test_the_secrets_of_an_address_are_in_no_log_no_error_and_no_repr(
    fails_by: str, inbox: HttpInbox, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    caplog.set_level(1)
    user, password, path, query = SECRETS
    observer = await made(to=f"json://{user}:{password}@127.0.0.1:{inbox.port}/{path}?:key={query}")
    inbox.status = 500
    if fails_by == "hanging up":
        inbox._server.RequestHandlerClass = lambda *_: None  # type: ignore[assignment]
    if fails_by == "crash":
        monkeypatch.setattr(observer._receivers[0]._apprise, "notify", lambda **_: 1 / len(path[:0]))
    with pytest.raises(DeliveryError) as refused:
        await observer.on_event(failed("the error of the run"))
    assert refused.value.__cause__ is None
    said = [
        str(refused.value),
        repr(vars(refused.value)),
        repr(observer),
        *(repr(vars(r)) for r in caplog.records),
        caplog.text,
    ]
    for secret in SECRETS:
        assert not any(secret in text for text in said)
    assert "the error of the run" not in caplog.text
    logging.getLogger("urllib3.connectionpool").debug("not while something is sent")
    assert "not while something is sent" in caplog.text


async def test_the_secrets_of_an_address_with_another_address_in_it_are_in_no_log_and_no_error(
    inbox: HttpInbox, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(1)
    page = "https://runs.example.org/latest"
    observer = await made(to=f"ntfy://127.0.0.1:{inbox.port}/s3cret-topic?click={page}")
    inbox.status = 500
    with pytest.raises(DeliveryError, match="topic") as refused:
        await observer.on_event(failed())
    (request,) = inbox.requests
    assert (json.loads(request.body)["topic"], request.headers["X-Click"]) == ("s3cret-topic", page)
    assert "s3cret-topic" not in str(refused.value) + caplog.text


@pytest.mark.parametrize(
    "url",
    [
        "s3cret-pass",
        "foo://s3cret-pass@host",
        "mailto://u:s3cret-pass@h",
        "json://",
        "slack://s3cret-pass",
        "",
        5,
        "https://s3cret-pass",
    ],
)
def test_an_address_that_is_none_is_refused_by_number_and_not_quoted(
    url: Any, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(1)
    with pytest.raises(ValueError, match="number 2") as refused:
        NotifyObserver(to=["json://localhost/", url])
    assert "s3cret-pass" not in str(refused.value) + caplog.text


def test_an_address_that_is_there_twice_is_refused() -> None:
    with pytest.raises(ValueError, match="to: one address is there twice"):
        NotifyObserver(to=["json://localhost/", "json://localhost/"])
