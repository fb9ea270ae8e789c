"""The tables `[[observers]]`: what is read, and one clear line for anything that is wrong."""

from pathlib import Path

import pytest

from trackside.app.delivery import Delivery, Order
from trackside.app.settings import ObserverSettings, SettingsError, load_settings
from trackside.harness import LifecycleEventType

HEAD = '[[observers]]\ntype = "webhook"\n'


def load(folder: Path, toml: str, environ: dict[str, str] | None = None) -> tuple[ObserverSettings, ...]:
    (folder / "trackside.toml").write_text(toml, encoding="utf-8")
    return load_settings(environ=environ or {}, folder=folder).observers


def test_what_is_not_said_is_left_to_the_class(tmp_path: Path) -> None:
    assert load(tmp_path, HEAD) == (
        ObserverSettings(type="webhook", name="webhook", where="trackside.toml, observers[1] (webhook)"),
    )


def test_keys_of_the_table_and_options_of_the_observer_are_told_apart(tmp_path: Path) -> None:
    _, observer = load(
        tmp_path,
        f"""{HEAD}
[[observers]]
type = "watch.py:Mail"
name = "mail"
delivery = "durable"
events = ["run_failed", "run_completed", "run_failed"]
agent = "chat"
start = "beginning"
order = "run"
concurrency = 4
on_failure = "block"
attempts = 3
longest_pause = "10m"
call_limit = 90
to = ["a@example.org"]
headers = {{ X-Key = "env:KEY" }}
""",
    )

    assert observer == ObserverSettings(
        type="watch.py:Mail",
        name="mail",
        where="trackside.toml, observers[2] (mail)",
        delivery=Delivery.durable,
        events=(LifecycleEventType.RUN_FAILED, LifecycleEventType.RUN_COMPLETED),
        agent="chat",
        start="beginning",
        order=Order.run,
        concurrency=4,
        on_failure="block",
        attempts=3,
        longest_pause=600.0,
        call_limit=90.0,
        options={"to": ["a@example.org"], "headers": {"X-Key": "env:KEY"}},
    )


def test_options_are_not_shown_for_they_may_be_secrets(tmp_path: Path) -> None:
    (observer,) = load(tmp_path, HEAD + 'secret = "whsec_123"')

    assert "whsec" not in repr(observer)


@pytest.mark.parametrize(
    ("toml", "says"),
    [
        ("[observers]\nx = 1", "trackside.toml, observers: each begins with [[observers]], in two brackets."),
        ("observers = [1]", "trackside.toml, observers: each begins with [[observers]], in two brackets."),
        (
            "[[observers]]\nurl = 'x'",
            'trackside.toml, observers[1]: type is missing; write which observer it is, as type = "webhook".',
        ),
        ("[[observers]]\ntype = 3", "trackside.toml, observers[1].type: 3 is not a text; put it in quotes."),
        ("[[observers]]\ntype = ''", "observers[1].type: '' is not a name: a text of 1 to 255 characters on one line."),
        (f"{HEAD}name = ''", "observers[1] (webhook).name: '' is not a name"),
        (
            HEAD + HEAD,
            "observers[2] (webhook).name: trackside.toml, observers[1] (webhook) has this name, too; say what to call each",
        ),
        (
            f"{HEAD}name = 'run-webhooks'",
            "(run-webhooks).name: the server itself has a subscription of this name; give it another one: name = ",
        ),
        (
            "[[observers]]\ntype = 'run-webhooks'",
            "(run-webhooks).name: the server itself has a subscription of this name",
        ),
        (f"{HEAD}delivery = 'durible'", "(webhook).delivery: 'durible' is not known; did you mean durable?"),
        (f"{HEAD}delivery = 1", "(webhook).delivery: 1 is not known; there are live, durable."),
        (f"{HEAD}required = 'yes'", "(webhook).required: 'yes' is neither true nor false."),
        (f"{HEAD}events = 'run_failed'", "(webhook).events: 'run_failed' is not a list of types of events;"),
        (f"{HEAD}events = []", '(webhook).events: [] is not a list of types of events; write ["run_completed", '),
        (f"{HEAD}events = ['run_faild']", "(webhook).events: 'run_faild' is not known; did you mean run_failed?"),
        (f"{HEAD}events = [7]", "(webhook).events: '7' is not known; there are run_started, run_completed, "),
        (f"{HEAD}agent = 7", "(webhook).agent: 7 is not a text; put it in quotes."),
        (f"{HEAD}start = 'begin'", '(webhook).start: \'begin\' is not "now", "beginning", or the position after'),
        (f"{HEAD}start = -1", "(webhook).start: -1 is not"),
        (f"{HEAD}start = true", "(webhook).start: True is not"),
        (f"{HEAD}order = 'fifo'", "(webhook).order: 'fifo' is not known; there are log, run, none."),
        (f"{HEAD}concurrency = 0", "(webhook).concurrency: 0 is not a whole number from 1 up"),
        (f"{HEAD}on_failure = 'drop'", "(webhook).on_failure: 'drop' is not known; there are park, block."),
        (f"{HEAD}attempts = 1.5", "(webhook).attempts: 1.5 is not a whole number from 1 up"),
        (f"{HEAD}longest_pause = 'long'", "(webhook).longest_pause: 'long' is not a length of time"),
    ],
)
def test_a_mistake_is_one_line_that_names_the_table_and_the_key(tmp_path: Path, toml: str, says: str) -> None:
    with pytest.raises(SettingsError) as caught:
        load(tmp_path, toml)

    assert says in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_variable_says_nothing_about_observers(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="TRACKSIDE_OBSERVERS_WEBHOOK_URL: observers are set in the file"):
        load(tmp_path, HEAD, {"TRACKSIDE_OBSERVERS_WEBHOOK_URL": "http://example.org"})
