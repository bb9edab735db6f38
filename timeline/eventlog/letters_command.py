"""`timeline job dead-letters list | retry | drop`."""

from __future__ import annotations

import asyncio
import json
import sys
from base64 import b64encode
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime

import click

from timeline.domain.errors import TimelineError, Unavailable
from timeline.eventlog.dealing import deal
from timeline.eventlog.letters import DeadTopic, Letter, Survey, open_dead_topics
from timeline.eventlog.marks import How, Numbers
from timeline.eventlog.producer import open_producer
from timeline.eventlog.topics import Topic
from timeline.settings import Settings, read_settings

_SHOWN_CHARACTERS = 120  # of a value; reasons and keys are shorter
_LIST_MAX = 10_000

_one_topic = click.option("--topic", type=click.Choice([each.value for each in Topic]), help="Only of this topic.")
_everything = click.option("--all", "everything", is_flag=True, help="Every open letter.")
_numbers = click.argument("numbers", metavar="[NUMBER]...", nargs=-1, type=click.IntRange(0, 2**63 - 2))


@click.group("dead-letters", short_help="Events that cannot be decoded: list | retry | drop.")
def dead_letters() -> None:
    """Events that fan-out could not decode, kept for 30 days.

    Look at them, and then either retry them, once what was wrong is put right,
    or drop them. A letter that was dealt with is listed no more.
    """


@dead_letters.command("list", short_help="Show the letters that are open.")
@_one_topic
@click.option("--limit", type=click.IntRange(1, _LIST_MAX), default=100, show_default=True, help="So many at most.")
@click.option("--all", "everything", is_flag=True, help="Also those that were dealt with.")
@click.option("--stack", is_flag=True, help="With where in the code it happened.")
@click.option("--json", "as_json", is_flag=True, help="A JSON object a line, values whole.")
def show(topic: str | None, limit: int, everything: bool, stack: bool, as_json: bool) -> None:
    """Show the letters that are open, a line each, the oldest first.

    A line says the letter's number, when it was buried, where the event had
    stood (topic[partition]@offset), why, its key, and the start of its value.
    """
    with _errors_told(), _opened(topic) as (_, topics):
        left, unshown = limit, 0
        for each in topics:
            survey = each.survey(whole=everything)
            found = survey.letters if everything else survey.open
            wanted = found.first(left)
            for letter in each.read(wanted):
                state = _state(survey, letter.number)
                click.echo(_as_json(each, letter, state) if as_json else _line(each, letter, state))
                if stack and not as_json:
                    click.echo("".join(f"    {_printable(line)}\n" for line in letter.stack.splitlines()), nl=False)
            left, unshown = left - len(wanted), unshown + len(found) - len(wanted)
        if left == limit and not as_json:
            click.echo("no dead letters" if everything else "no open dead letters")
        if unshown:
            click.echo(f"and {unshown} more: --limit, --topic", err=True)


@dead_letters.command(short_help="Produce events again, as they were.")
@_one_topic
@_everything
@_numbers
def retry(topic: str | None, everything: bool, numbers: tuple[int, ...]) -> None:
    """Produce events again to the topic that they came from.

    Each goes as it was: key, value, headers; a header dead-retries counts.
    First put right what was wrong: what fails again is buried again, and over
    100 of those in a row stop fan-out.

    Harmless to repeat, and for two people at once: an event that comes twice
    changes nothing.
    """
    _deal(How.retried, topic, everything, numbers)


@dead_letters.command(short_help="Give events up.")
@_one_topic
@_everything
@_numbers
def drop(topic: str | None, everything: bool, numbers: tuple[int, ...]) -> None:
    """Give events up: they are listed no more.

    Asks nothing, and says what it dropped. The letters themselves stay until
    their 30 days are over: `list --all` shows them.
    """
    _deal(How.dropped, topic, everything, numbers)


def _deal(how: How, topic: str | None, everything: bool, numbers: Sequence[int]) -> None:
    if everything == bool(numbers):
        raise click.UsageError("name letters by their NUMBER, or say --all")
    with _errors_told(), _opened(topic) as (settings, topics):
        surveys = [(each, each.survey()) for each in topics]
        chosen = [(*one, one[1].open) for one in surveys] if everything else [_chosen(surveys, Numbers(numbers))]
        done = asyncio.run(_deal_with(settings, how, chosen))
        click.echo(f"{done} {how}" if done else "no open dead letters")


def _chosen(surveys: Sequence[tuple[DeadTopic, Survey]], wanted: Numbers) -> tuple[DeadTopic, Survey, Numbers]:
    """The one topic whose letters these are. Raises UsageError: nothing was changed."""
    meant = [(each, survey) for each, survey in surveys if survey.open] if len(surveys) > 1 else surveys
    if len(meant) > 1:
        names = ", ".join(each.topic for each, _ in meant)
        raise click.UsageError(f"each topic numbers its own letters, and several have open ones: say --topic ({names})")
    if not meant:
        raise click.UsageError("there are no open dead letters; nothing was changed")
    [(topic, survey)] = meant
    if unknown := wanted - survey.open:
        there = f"open are {survey.open.shown()}" if survey.open else "none is open"
        raise click.UsageError(f"{topic.topic} has no open letter {unknown.shown()}: {there}; nothing was changed")
    return topic, survey, wanted


async def _deal_with(settings: Settings, how: How, chosen: Sequence[tuple[DeadTopic, Survey, Numbers]]) -> int:
    done = 0
    async with open_producer(settings, close_seconds=0) as producer:
        for topic, survey, numbers in chosen:
            done += await deal(
                topic,
                survey,
                numbers,
                how,
                producer,
                settings.limits,
                lambda letter, topic=topic: click.echo(_line(topic, letter, how)),  # type: ignore[misc]
            )
    return done


@contextmanager
def _opened(topic: str | None) -> Iterator[tuple[Settings, list[DeadTopic]]]:
    settings = read_settings()
    with open_dead_topics(settings, [Topic(topic)] if topic else list(Topic)) as topics:
        yield settings, topics


@contextmanager
def _errors_told() -> Iterator[None]:
    """Exit codes: 1 it went wrong, 130 interrupted. A bug keeps its traceback."""
    try:
        yield
    except Unavailable as error:
        raise click.ClickException(
            f"{_printable(str(error))}\n  what to do: see that Kafka serves (`timeline local status`, or your operator's "
            "console) and that TIMELINE_KAFKA_… name it, and run this again"
        ) from error
    except TimelineError as error:
        raise click.ClickException(_printable(str(error))) from error
    except KeyboardInterrupt:
        click.echo("stopped; what was told is done, run this again to go on", err=True)
        sys.exit(130)


def _state(survey: Survey, number: int) -> How | None:
    """None: open."""
    return next((how for how, numbers in survey.dealt_with.items() if number in numbers), None)


def _line(topic: DeadTopic, letter: Letter, state: How | None) -> str:
    words = [f"{topic.topic} {letter.number}", _when(letter)]
    if state is not None:
        words.append(state)
    if letter.retries:
        words.append(f"retried before: {letter.retries}")
    key = "none" if letter.key is None else _start(letter.key)
    value = "none" if letter.value is None else _start(letter.value)
    return "  ".join(
        [*words, f"from {_cut(letter.came_from or '?')}", _cut(letter.reason or "?"), f"key {key}", f"value {value}"]
    )


def _as_json(topic: DeadTopic, letter: Letter, state: How | None) -> str:
    """ASCII alone, so that nothing in it reaches a terminal raw. Bytes that are no UTF-8 are base64, and say so."""
    return json.dumps(
        {
            "topic": topic.topic,
            "number": letter.number,
            "at": _when(letter),
            "state": state or "open",
            "from": letter.came_from,
            "reason": letter.reason,
            "retries": letter.retries,
            "key": _text_or_bytes(letter.key),
            "value": _text_or_bytes(letter.value),
            "headers": [[name, _text_or_bytes(value)] for name, value in letter.headers],
            "stack": letter.stack,
        }
    )


def _text_or_bytes(value: bytes | None) -> str | dict[str, str] | None:
    if value is None:
        return None
    try:
        return value.decode()
    except UnicodeDecodeError:
        return {"base64": b64encode(value).decode()}


def _when(letter: Letter) -> str:
    try:
        return datetime.fromtimestamp(letter.at_ms / 1000, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    except (ValueError, OverflowError, OSError):  # a header that anybody may have written
        return "?"


def _start(value: bytes) -> str:
    """The beginning of it; what is no UTF-8 as \\xNN. A character has at most four bytes."""
    return _cut(value[: 4 * _SHOWN_CHARACTERS + 4].decode(errors="backslashreplace"))


def _cut(text: str) -> str:
    shown = text[:_SHOWN_CHARACTERS]
    return _printable(shown) + ("…" if len(text) > len(shown) else "")


def _printable(text: str) -> str:
    """Whatever a terminal would act on, escaped."""
    return "".join(each if each.isprintable() else each.encode("unicode_escape").decode() for each in text)
