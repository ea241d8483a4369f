"""Chances in plain words: how many of 100 patients, between which limits, by when."""

from collections.abc import Sequence

from .curves import Interval


def deadly(event: str) -> bool:
    """Tell whether an event is death from any cause, so that those without it are alive."""
    return event.lower() in {"death", "died", "dead", "death from any cause", "all-cause death"}


def of_hundred(share: float) -> str:
    """Return a share as a whole number of 100; 'fewer than one' and 'more than 99' instead of a false 0 or 100.

    >>> of_hundred(0.618), of_hundred(0.003), of_hundred(1.0)
    ('62', 'fewer than one', '100')
    """
    percent = 100 * share
    if 0 < percent < 0.5:
        return "fewer than one"
    if 99.5 < percent < 100:
        return "more than 99"
    return str(round(percent))


def between(interval: Interval) -> str:
    """Return the limits of a share: 'between 51 and 71'; at exactly 0 or 1 there is no way to compute any."""
    if interval.low == interval.value == interval.high:
        return "no limits can be given"
    return f"between {of_hundred(interval.low)} and {of_hundred(interval.high)}"


def state(event: str, *, share: float, competing: bool) -> str:
    """Say what the share of people counts: the living, those without the event, or those who have had it."""
    one = round(100 * share) == 1
    if competing:
        return f"{'has' if one else 'have'} {_happened(event)}"
    if deadly(event):
        return "is alive" if one else "are alive"
    return f"{'has' if one else 'have'} had no {event}"


def _happened(event: str) -> str:
    """Return an event as something people have done.

    >>> _happened("death in remission"), _happened("relapse"), _happened("graft failure")
    ('died in remission', 'relapsed', 'had graft failure')
    """
    word, *rest = event.split()
    verb = {"death": "died", "relapse": "relapsed"}.get(word.lower())
    return " ".join([verb, *rest]) if verb else f"had {event}"


def count_sentence(when: str, *, events: Sequence[str], survival: Interval, incidence: Interval) -> str:
    """Return how many of 100 are alive (with competing events: have had the first one) after a time, and the limits."""
    competing = len(events) > 1
    share = incidence if competing else survival
    what = state(events[0], share=share.value, competing=competing)
    return f"{of_hundred(share.value)} {what} after {when}; {between(share)}."


def listing(items: Sequence[str]) -> str:
    """Join words as a sentence does.

    >>> listing(["I", "II", "III"])
    'I, II and III'
    """
    return " and ".join(filter(None, [", ".join(items[:-1]), *items[-1:]]))
