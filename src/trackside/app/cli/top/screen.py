"""The screen of `trackside top`: a table of runs, what happens around them, and keys to act on them. Needs Textual."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Mapping
from datetime import UTC, datetime
from time import monotonic
from typing import TYPE_CHECKING, ClassVar, Protocol, override, runtime_checkable

from rich.table import Table
from rich.text import Text
from textual import on, work
from textual.app import App, ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Vertical
from textual.events import Resize
from textual.screen import ModalScreen
from textual.widgets import DataTable, Footer, Input, RichLog, Static

from trackside.app.cli.formatting import abridged, cost, count, duration, moment, one_line
from trackside.app.cli.records.attempts import cancelled, last_attempt
from trackside.app.cli.suggesting import said_at
from trackside.app.cli.top.colours import ANSI_DARK, ANSI_LIGHT, DARK, LIGHT
from trackside.app.cli.top.watching import ORDERS, Seen, Watched
from trackside.app.cli.views.appearance import RUN_LOOKS, look_of, words_of
from trackside.app.command_lines import command_line
from trackside.harness.errors import TracksideError
from trackside.harness.lifecycle import is_final
from trackside.harness.types import RunStatus

if TYPE_CHECKING:
    from trackside.app.cli.records.protocol import Following, Records
    from trackside.app.storage import LiveCounts, StoredEvent

REDRAWN_EVERY = 0.5
COUNTED_EVERY = 2.0
SHOWN = 200
"""The most rows: nobody would read a table of thousands, and it would be redrawn for everybody."""

_ACTIVE = (RunStatus.pending, RunStatus.running)
_MOST_ACTIVE = 20_000
_TAIL = 50
_LINES = 500
_LONGEST = 160
_KEYS = {
    "c": "cancel the run that is marked; asks before",
    "r": "run the same request again, on a server (--url)",
    "Enter": "all about it",
    "/": "show only runs with this in their agent or status, or whose id begins with it; Escape shows all again",
    "s": "sort by age, length, tokens, cost",
    "p": "pause the screen; nothing is missed",
    "q": "quit",
}
_RATES = "Rates are those of the last minute; outcomes are counted since this screen was opened."
_WIDE = 110
"""The least columns that have room for threads, and for words beside symbols."""
_COLUMNS = {"RUN": 18, "STATUS": 13, "AGENT": 24, "TIME": 10, "TOKENS": 9, "COST": 9, "THREAD": 36}
_NUMERIC = {"TIME", "TOKENS", "COST"}
_NARROW = {"RUN": 13, "AGENT": 15, "TOKENS": 8, "COST": 8, "THREAD": 0}
"""The widths that differ where there is less room; a column with width 0 is left out."""


@runtime_checkable
class Retries(Protocol):
    """Records on a server, which also executes runs."""

    async def retry(self, run_id: str) -> str:
        """Repeat what a run was asked for; returns the id of the new run."""
        ...


class Said(ModalScreen[bool]):
    """A text over the screen; with `asks` it is a question, which y answers with yes."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("y", "answer(True)", "Yes", show=False),
        Binding("escape,n,q,enter", "answer(False)", "Close"),
    ]

    def __init__(self, text: str | Mapping[str, str], *, asks: bool = False) -> None:
        super().__init__()
        self._text = text
        self._asks = asks

    @override
    def compose(self) -> ComposeResult:
        hint = "y: yes · n or Escape: no" if self._asks else "Escape closes this"
        with Vertical(id="said"):
            yield Static(Text(self._text) if isinstance(self._text, str) else _pairs(self._text), id="text")
            yield Static(Text(hint, "dim"))

    def action_answer(self, agreed: bool) -> None:
        """Close it, with an answer."""
        self.dismiss(agreed and self._asks)


class TopApp(App[None]):
    """Runs as they go on, from a database or a server; it does not know which."""

    TITLE = "trackside top"
    ENABLE_COMMAND_PALETTE = False
    CSS = """
    * { scrollbar-size-vertical: 1; scrollbar-color: $panel-lighten-2; scrollbar-background: $background; }
    #banner { display: none; background: $error; color: white; padding: 0 1; }
    #banner.shown { display: block; }
    #numbers { height: 3; padding: 0 1; }
    #filter { display: none; height: 1; border: none; padding: 0 1; background: $panel; }
    #filter.shown { display: block; }
    #runs { height: 2fr; overflow-x: hidden; background: $background; }
    #runs > .datatable--header { background: $panel; color: $foreground; }
    #runs > .datatable--odd-row { background: $background; }
    #runs > .datatable--even-row { background: $background; }
    #runs > .datatable--cursor { background: $primary; color: $foreground; }
    #tail { height: 1fr; max-height: 14; overflow-y: auto; padding: 0 1; background: $background; }
    #tail { border-top: solid $secondary; border-title-color: $secondary; }
    Footer, FooterKey { background: $panel; }
    Said { align: center middle; }
    #said { width: 80%; max-width: 110; height: auto; max-height: 80%; overflow-y: auto; }
    #said { border: round $secondary; background: $panel; padding: 1 2; }
    #text { margin-bottom: 1; }
    """
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("c", "cancel_run", "Cancel"),
        Binding("r", "retry_run", "Retry"),
        Binding("slash", "filter", "Filter"),
        Binding("escape", "unfilter", "All runs"),
        Binding("s", "sort", "Sort"),
        Binding("p", "pause", "Pause"),
        Binding("question_mark", "help", "Help"),
        Binding("q", "quit", "Quit"),
    ]

    def __init__(self, records: Records, *, light: bool = False) -> None:
        super().__init__()
        self.watched = Watched()
        self._records = records
        self._light = light
        self._order = "newest"
        self._wanted = ""
        self._is_filtering = False
        self._paused = False
        self._now: LiveCounts | None = None
        self._marked = ""
        self._to_tell: deque[StoredEvent] = deque(maxlen=_LINES)
        """Events of the marked run that have come but are not in its tail yet."""
        self._told, self._is_asking = 0, False
        self._follower: Following | None = None
        self._retried: dict[str, str] = {}
        self._retrying: set[str] = set()
        self._away = {"events": "", "numbers": ""}
        self._is_wide: bool | None = None
        self._shown: Mapping[str, int] = {}

    @override
    def compose(self) -> ComposeResult:
        yield Static(id="banner")
        yield Static(id="numbers")
        yield Input(placeholder="agent, status, or the beginning of an id", id="filter")
        yield DataTable(id="runs", cursor_type="row", zebra_stripes=True)
        yield RichLog(id="tail", wrap=False, markup=False, max_lines=_LINES)
        yield Footer()

    def on_mount(self) -> None:
        """Begin to watch."""
        for theme in (DARK, LIGHT):
            self.register_theme(theme)
        self.ansi_theme_dark, self.ansi_theme_light = ANSI_DARK, ANSI_LIGHT
        self.theme = (LIGHT if self._light else DARK).name
        self._lay_out(self.size.width)
        self.query_one("#runs", DataTable).focus()
        self._watch()
        self.set_interval(REDRAWN_EVERY, self._redraw)
        self._count()

    def on_resize(self, event: Resize) -> None:
        """Make the table fit."""
        if self._is_wide is not None:  # otherwise there is no table yet
            self._lay_out(event.size.width)
            self._redraw()

    def _lay_out(self, width: int) -> None:
        """Give the table the columns that fit."""
        wide = width >= _WIDE
        if wide == self._is_wide:
            return
        self._is_wide = wide
        table = self.query_one("#runs", DataTable)
        table.clear(columns=True)
        self._shown = _COLUMNS if wide else {**_COLUMNS, **_NARROW}
        for title, columns in self._shown.items():
            if columns:
                label = Text(title, justify="right" if title in _NUMERIC else "left")
                table.add_column(label, key=title, width=columns)
        if self._paused:  # otherwise the next redraw fills it
            self._fill(table)

    @override
    def check_action(self, action: str, parameters: tuple[object, ...]) -> bool | None:
        """Whether a key can be used now; `Escape` only while a filter is set."""
        return action != "unfilter" or self._is_filtering

    def on_unmount(self) -> None:
        """Stop watching."""
        if self._follower is not None:
            self._follower.end()

    @work(name="trackside-top-events", exclusive=True, group="events")
    async def _watch(self) -> None:
        while True:
            try:
                end = await self._records.end()
                self.watched.begin(await self._records.runs(status=_ACTIVE, limit=_MOST_ACTIVE))
                self._follower = self._records.follow(end, on_outage=self._lost)
                async for stored in self._follower:
                    self._away["events"] = ""
                    self.watched.take(stored, monotonic())
                    if stored.event.run_id == self._marked:
                        self._to_tell.append(stored)
                        self._tell()
                return
            except TracksideError as exc:  # the records went away before there was anything to follow
                self._lost(exc)
                await asyncio.sleep(COUNTED_EVERY)

    def _lost(self, failure: Exception) -> None:
        self._away["events"] = said_at(self._records.home.flags, failure)

    @work(name="trackside-top-numbers", exclusive=True, group="numbers")
    async def _count(self) -> None:
        while True:
            try:
                self._now = await self._records.now()
                self.watched.look()
                self.watched.begin(await self._records.runs(status=[RunStatus.pending], limit=SHOWN))
            except TracksideError as exc:
                self._away["numbers"] = said_at(self._records.home.flags, exc)
            else:
                self._away = dict.fromkeys(self._away, "")
            await asyncio.sleep(COUNTED_EVERY)  # only when there was an answer, however long that took

    def _redraw(self) -> None:
        if not self.query("#banner"):  # the screen is being taken down
            return
        away = next(filter(None, self._away.values()), "")
        banner = self.query_one("#banner", Static)
        banner.set_class(bool(away), "shown")
        banner.update(Text(f"{away} What is shown is from before; it continues by itself." if away else ""))
        if self._paused:
            return
        self.query_one("#numbers", Static).update(self._numbers())
        self._fill(self.query_one("#runs", DataTable))

    def _numbers(self) -> Text:
        runs, events, tokens = self.watched.rates(monotonic())
        text = Text(no_wrap=True, overflow="ellipsis")
        text.append(one_line(self._records.home.shown), "bold")
        text.append(f"  {datetime.now().astimezone():%H:%M:%S}  sorted by {self._order}", "dim")
        if self._wanted:
            text.append(f"  only {one_line(self._wanted)!r}", "yellow")
        text.append("\n")
        _figures(text, {"runs/s": f"{runs:.1f}", "events/s": f"{events:.1f}", "tokens/min": f"{tokens:,.0f}"})
        text.append("\n")
        if (now := self._now) is not None:
            waiting = now.waiting_for_place + now.waiting_for_thread
            if now.stuck:
                text.append(f"{now.stuck:,} stuck  ", "bold red")
            figures = {"running": now.running, "waiting": waiting, "for a human": now.waiting_for_human}
            _figures(text, {name: f"{number:,}" for name, number in figures.items()})
        for status, look in RUN_LOOKS.items():
            if number := self.watched.outcomes[status]:
                text.append(f"{look.symbol} {number:,} {look.label if self._is_wide else ''}".rstrip(), look.style)
                text.append("  ")
        return text

    def _fill(self, table: DataTable[Text]) -> None:
        """Update the table, and keep the same run marked."""
        now = datetime.now(UTC)
        shown, all_ = self.watched.listed(text=self._wanted, order=self._order, limit=SHOWN)
        marked, row, scrolled = self._marked, table.cursor_row, table.scroll_y
        at = next((index for index, run in enumerate(shown) if run.run_id == marked), min(row, max(0, len(shown) - 1)))
        with self.prevent(DataTable.RowHighlighted):  # otherwise every row on the way there would be highlighted
            table.clear()
            for run in shown:
                table.add_row(*_cells(run, now, self._shown), key=run.run_id)
            table.move_cursor(row=at, animate=False, scroll=False)
        table.scroll_to(y=scrolled, animate=False)
        table.border_subtitle = f"{len(shown):,} of {count(all_, 'run')}"
        self._mark(shown[at].run_id if shown else "")

    @on(DataTable.RowHighlighted)
    def _mark_row(self, event: DataTable.RowHighlighted) -> None:
        if run_id := event.row_key.value:
            self._mark(run_id)

    def _mark(self, run_id: str) -> None:
        """Show what happens in a run, and have keys act on it; on nothing if no run is on the screen."""
        if run_id == self._marked:
            return
        self._marked = run_id
        self._show_tail(run_id)

    @property
    def _tail(self) -> RichLog | None:
        """The tail; None while the screen is being closed."""
        return next(iter(self.query("#tail").results(RichLog)), None)

    @work(name="trackside-top-tail", exclusive=True, group="tail")
    async def _show_tail(self, run_id: str) -> None:
        if (log := self._tail) is None:
            return
        log.clear()
        log.border_title = run_id
        self._to_tell.clear()
        self._told, self._is_asking = 0, bool(run_id)
        if not run_id:
            return
        try:
            events = await self._records.events(run_id=run_id, newest_first=True, limit=_TAIL)
        except TracksideError as exc:
            log.write(Text(said_at(self._records.home.flags, exc), "red"))
        else:
            for stored in sorted(events, key=lambda one: one.position):
                self._write(stored)
        self._is_asking = False
        self._tell()

    def _tell(self) -> None:
        """Update the tail, unless the screen is paused, or it still waits for the earlier events."""
        while self._to_tell and not self._paused and not self._is_asking:
            stored = self._to_tell.popleft()
            if stored.position > self._told:  # otherwise the answer contained it, too
                self._write(stored)

    def _write(self, stored: StoredEvent) -> None:
        self._told = stored.position
        look = look_of(stored.event)
        line = Text()
        line.append(f"{moment(stored.event.occurred_at, datetime.now(UTC))}  ", "dim")
        line.append(f"{look.symbol} {look.label:<10}", look.style or "default")
        line.append(f"  {abridged(one_line(words_of(stored.event)), _LONGEST)}", "default")
        if (log := self._tail) is not None:
            log.write(line)

    @on(DataTable.RowSelected)
    @work(name="trackside-top-details", exclusive=True, group="details")
    async def _show_details(self) -> None:
        try:
            run = await self._records.run(self._marked)
        except TracksideError as exc:
            self.notify(said_at(self._records.home.flags, exc), severity="error", markup=False)
            return
        if run is None:
            self.notify("This run is not there any more.", severity="warning")
            return
        facts = {
            "run": run.run_id,
            "thread": run.thread_id,
            "agent": one_line(run.agent or ""),
            "status": run.status.value,
            "took": "" if run.duration_seconds is None else duration(run.duration_seconds),
            "tokens": f"{run.total_input_tokens:,} in, {run.total_output_tokens:,} out",
            "cost": "" if run.cost_usd is None else cost(run.cost_usd),
            "error": abridged(one_line(run.error or "")),
            "look": command_line("runs", run.run_id, flags=self._records.home.flags),
        }
        await self.push_screen(Said({name: text for name, text in facts.items() if text}))

    # Like retrying, this is not exclusive: somebody who moves on to something else has asked for it all the same.
    @work(name="trackside-top-cancel")
    async def action_cancel_run(self) -> None:
        """Stop the marked run, if the person agrees."""
        seen = self.watched.runs.get(self._marked)
        if seen is None:
            self.notify("No run is marked.")
            return
        run_id = seen.run_id
        try:
            if is_final(seen.status):
                run = await self._records.run(run_id)
                last = None if run is None else await last_attempt(self._records, run)
                if last is None or is_final(last.status):
                    self.notify("It has ended.")
                    return
                run_id = last.run_id
            question = f"Cancel run {run_id} of {one_line(seen.agent) or 'an agent'}?"
            if not await self.push_screen_wait(Said(question, asks=True)):
                return
            if (run := await self._records.run(run_id)) is not None:
                run_id = (await cancelled(self._records, run)).run_id
            self.notify(f"Asked run {run_id} to stop.", markup=False)
        except TracksideError as exc:
            self.notify(said_at(self._records.home.flags, exc), severity="error", markup=False)

    @work(name="trackside-top-retry")
    async def action_retry_run(self) -> None:
        """Repeat what the marked run was asked for; before a second time, it asks."""
        if not self._marked:
            self.notify("No run is marked.")
            return
        if not isinstance(self._records, Retries):
            retry = command_line("retry", self._marked, flags=self._records.home.flags)
            said = f"Nobody executes runs here; with --url a server does, or: {retry}"
            self.notify(said, severity="warning", markup=False)
            return
        seen = self.watched.runs.get(self._marked)
        if seen is None or not is_final(seen.status):
            self.notify("It has not ended." if seen else "No run is marked.")
            return
        if seen.run_id in self._retrying:
            return
        earlier = self._retried.get(seen.run_id)
        question = f"Run {earlier} already repeats run {seen.run_id}. Start another one?"
        if earlier is not None and not await self.push_screen_wait(Said(question, asks=True)):
            return
        self._retrying.add(seen.run_id)
        try:
            self._retried[seen.run_id] = new = await self._records.retry(seen.run_id)
            self.notify(f"Run {new} repeats it.", markup=False)
        except TracksideError as exc:
            self.notify(said_at(self._records.home.flags, exc), severity="error", markup=False)
        finally:
            self._retrying.discard(seen.run_id)

    def action_filter(self) -> None:
        """Type the text to filter runs by."""
        box = self.query_one("#filter", Input)
        box.add_class("shown")
        box.focus()
        self._is_filtering = True
        self.refresh_bindings()

    def action_unfilter(self) -> None:
        """Show all runs."""
        box = self.query_one("#filter", Input)
        box.value = ""
        box.remove_class("shown")
        self.query_one("#runs", DataTable).focus()
        self._is_filtering = False
        self.refresh_bindings()

    @on(Input.Changed, "#filter")
    def _want(self, event: Input.Changed) -> None:
        self._wanted = event.value.strip()
        self._redraw()

    @on(Input.Submitted, "#filter")
    def _wanted_all(self) -> None:
        self.query_one("#runs", DataTable).focus()

    def action_sort(self) -> None:
        """Sort by the next order."""
        orders = [*ORDERS]
        self._order = orders[(orders.index(self._order) + 1) % len(orders)]
        self._redraw()

    def action_pause(self) -> None:
        """Freeze the screen, or go on."""
        self._paused = not self._paused
        self.query_one("#runs", DataTable).border_title = "paused; p goes on" if self._paused else ""
        self.notify("Paused; p goes on." if self._paused else "Goes on.")
        self._tell()

    def action_help(self) -> None:
        """Say what the keys do."""
        self.push_screen(Said({**_KEYS, "": f"\n{_RATES}"}))


def _cells(run: Seen, now: datetime, widths: Mapping[str, int]) -> list[Text]:
    look = RUN_LOOKS[run.status]
    cells = {
        "RUN": Text(run.run_id[: widths["RUN"]]),
        "STATUS": Text(f"{look.symbol} {look.label}", look.style),
        "AGENT": Text(abridged(one_line(run.agent), widths["AGENT"])),
        "TIME": Text(duration(run.seconds(now)), justify="right"),
        "TOKENS": Text(f"{run.tokens:,}" if run.tokens else "", justify="right"),
        "COST": Text("" if run.cost is None else cost(run.cost), justify="right"),
        "THREAD": Text(one_line(run.thread_id)[: widths["THREAD"]], "dim"),
    }
    return [cell for title, cell in cells.items() if widths[title]]


def _figures(text: Text, figures: Mapping[str, str]) -> None:
    """Add numbers and what they count."""
    for name, number in figures.items():
        text.append(number, "bold")
        text.append(f" {name}   ", "dim")


def _pairs(facts: Mapping[str, str]) -> Table:
    """Names, and beside each its text."""
    table = Table.grid(padding=(0, 2, 0, 0))
    table.add_column(no_wrap=True, style="bold")
    table.add_column(overflow="fold")
    for name, said in facts.items():
        table.add_row(name, Text(said))
    return table
