"""Made-up records, the same on every machine: pages of orders, branch offices, and invoices of which a few are long."""

from __future__ import annotations

import random
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

PAGES, ROWS = 400, 1000  # of `tables`
BRANCHES = 400  # of `heavy`
INVOICES = 10_000  # of `skewed`
LONG = 0.01  # the share of invoices that are long
TIMES = 107  # so many times the lines has a long one: with what every invoice has besides, 100 times the work

FIRST = ("Ada", "Ben", "Chloe", "Dan", "Elif", "Femi", "Grace", "Hugo", "Ines", "Jun", "Kofi", "Lena", "Mara", "Nils")
LAST = ("Abel", "Brandt", "Costa", "Diaz", "Eriksen", "Fischer", "Garcia", "Hansen", "Ito", "Jansen", "Kaya", "Lopez")
CITIES = ("Aachen", "Bergen", "Cadiz", "Dijon", "Esbjerg", "Faro", "Genoa", "Haarlem", "Innsbruck", "Krakow", "Lyon")
COUNTRIES = ("AT", "BE", "CH", "DE", "DK", "ES", "FR", "IT", "NL", "NO", "PL", "PT")
STREETS = ("Mill Lane", "High Street", "Station Road", "Church Square", "Park Avenue", "Harbour Walk")
MATERIALS = ("steel", "oak", "copper", "glass", "linen", "cork", "slate", "brass", "wool", "birch")
THINGS = ("bracket", "shelf", "lamp", "hinge", "handle", "frame", "valve", "panel", "hook", "tray", "socket", "rail")
GROUPS = ("fittings", "furniture", "lighting", "plumbing", "tools", "textiles", "paint", "garden")
SECTORS = ("building", "crafts", "hotels", "public", "retail", "schools")
TEAMS = ("counter", "delivery", "office", "purchase", "service", "warehouse")
ROLES = ("apprentice", "clerk", "driver", "expert", "lead", "planner")
LANGUAGES = ("English", "French", "German", "Italian", "Polish", "Spanish", "Turkish")
TRAININGS = ("first aid", "forklift", "fire safety", "data protection", "sales talk", "spreadsheets")
STATES = ("planned", "running", "late", "done")
KINDS = ("broken", "incomplete", "late", "mixed up", "too dear")
QUARTERS = ("Q1", "Q2", "Q3", "Q4")
COSTS = ("cleaning", "energy", "insurance", "rent", "repairs", "taxes", "transport", "wages")
SENTENCE = (
    "the branch has sold more than in the year before and less than it hoped while its stock grew and most orders came "
    "in time because two vans were new and the counter was open on Saturdays as customers had asked for"
)
WORDS = tuple(SENTENCE.split(" "))
CURRENCIES = ("CHF", "DKK", "EUR", "NOK", "PLN")
STATUSES = ("open", "packed", "paid", "returned", "sent")


class Draw:
    """Choices at random that every Python makes alike: of `random`, only what `random()` gives is promised to stay."""

    def __init__(self, corpus: str, number: int) -> None:
        self.share = random.Random(f"{corpus} {number}").random

    def between(self, least: int, greatest: int) -> int:
        """A whole number, both ends included."""
        return least + int(self.share() * (greatest - least + 1))

    def one_of(self, choices: Sequence[str]) -> str:
        """One of some words."""
        return choices[int(self.share() * len(choices))]

    def some_of(self, choices: Sequence[str], share: float) -> list[str]:
        """About such a share of some words, in their order."""
        return [one for one in choices if self.share() < share]

    def person(self) -> str:
        """A name of a person."""
        return f"{self.one_of(FIRST)} {self.one_of(LAST)}"

    def thing(self) -> str:
        """A name of something that a shop sells."""
        return f"{self.one_of(MATERIALS)} {self.one_of(THINGS)}"

    def date(self, year: int = 2025) -> str:
        """A day of a year that every month has."""
        return f"{year}-{self.between(1, 12):02d}-{self.between(1, 28):02d}"

    def text(self, words: int) -> str:
        """A sentence of so many words."""
        return " ".join(self.one_of(WORDS) for _ in range(words)).capitalize() + "."


def tables_records() -> Iterator[dict[str, Any]]:
    """Pages of a thousand orders each: nothing but attributes to look up."""
    for number in range(PAGES):
        draw = Draw("tables", number)
        rows = [order(draw, number * ROWS + index) for index in range(ROWS)]
        yield {"id": f"page-{number:04d}", "title": f"Orders, page {number + 1}", "rows": rows}


def order(draw: Draw, number: int) -> dict[str, Any]:
    """A row of a table."""
    cents = draw.between(100, 500_000)
    return {
        "id": f"O-{number:07d}",
        "date": draw.date(),
        "status": draw.one_of(STATUSES),
        "customer": {
            "name": draw.person(),
            "address": {"city": draw.one_of(CITIES), "country": draw.one_of(COUNTRIES)},
        },
        "product": {"sku": f"S-{draw.between(10_000, 99_999)}", "name": draw.thing()},
        "amount": {"value": f"{cents // 100}.{cents % 100:02d}", "currency": draw.one_of(CURRENCIES)},
        "quantity": draw.between(1, 40),
    }


def heavy_records() -> Iterator[dict[str, Any]]:
    """What the annual report of each branch office is made from; the largest has nearly four times the smallest."""
    for number in range(BRANCHES):
        draw = Draw("heavy", number)
        yield branch(draw, number, 1.15 + 3.2 * draw.share() ** 2)


def branch(draw: Draw, number: int, size: float) -> dict[str, Any]:
    """A branch office and its year."""
    products = [product(draw, index) for index in range(round(50 * size))]
    return {
        "id": f"branch-{number:03d}",
        "name": f"{draw.one_of(CITIES)} {draw.one_of(STREETS)}",
        "region": draw.one_of(("East", "North", "South", "West")),
        "opened": draw.between(1950, 2020),
        "address": {"street": draw.one_of(STREETS), "number": draw.between(1, 200), "city": draw.one_of(CITIES)},
        "manager": {"name": draw.person(), "phone": f"+{draw.between(10**10, 10**11 - 1)}"},
        "summary": [draw.text(60) for _ in range(3)],
        "staff": [employee(draw) for _ in range(round(30 * size))],
        "products": products,
        "sales": [sale(draw, products) for _ in range(round(220 * size))],
        "customers": [customer(draw) for _ in range(round(40 * size))],
        "projects": [project(draw, index) for index in range(round(10 * size))],
        "complaints": [complaint(draw, products, index) for index in range(round(25 * size))],
        "costs": [
            {"kind": kind, "quarter": quarter, "cents": draw.between(10**5, 10**7)}
            for kind in COSTS
            for quarter in QUARTERS
        ],
        "goals": [{"title": draw.text(6), "owner": draw.person(), "due": draw.date(2026)} for _ in range(8)],
    }


def product(draw: Draw, index: int) -> dict[str, Any]:
    """Something that a branch sells."""
    return {
        "sku": f"S-{index:04d}",
        "name": draw.thing(),
        "group": draw.one_of(GROUPS),
        "cents": draw.between(200, 90_000),
        "stock": {"count": draw.between(0, 300), "minimum": draw.between(0, 60), "place": f"A{draw.between(1, 40)}"},
    }


def employee(draw: Draw) -> dict[str, Any]:
    """Somebody who works there."""
    return {
        "name": draw.person(),
        "team": draw.one_of(TEAMS),
        "role": draw.one_of(ROLES),
        "since": draw.between(1985, 2025),
        "hours": draw.between(10, 40),
        "languages": draw.some_of(LANGUAGES, 0.3),
        "trainings": [{"title": title, "days": draw.between(1, 5)} for title in draw.some_of(TRAININGS, 0.4)],
    }


def sale(draw: Draw, products: list[dict[str, Any]]) -> dict[str, Any]:
    """What was sold of a product in a month."""
    sold = products[draw.between(0, len(products) - 1)]
    units = draw.between(1, 80)
    return {
        "month": draw.between(1, 12),
        "group": sold["group"],
        "product": {"sku": sold["sku"], "name": sold["name"]},
        "units": units,
        "cents": units * sold["cents"],
    }


def customer(draw: Draw) -> dict[str, Any]:
    """A firm that buys there."""
    return {
        "name": f"{draw.one_of(LAST)} & {draw.one_of(LAST)}",
        "sector": draw.one_of(SECTORS),
        "city": draw.one_of(CITIES),
        "since": draw.between(1990, 2025),
        "cents": draw.between(10_000, 20_000_000),
        "contacts": [{"name": draw.person(), "phone": f"+{draw.between(10**10, 10**11 - 1)}"} for _ in range(2)],
    }


def project(draw: Draw, index: int) -> dict[str, Any]:
    """Something that a branch wants to have done."""
    return {
        "name": f"{draw.one_of(('New', 'Better', 'Other'))} {draw.thing()} {index + 1}",
        "lead": draw.person(),
        "state": draw.one_of(STATES),
        "budget": draw.between(10**6, 10**8),
        "spent": draw.between(10**5, 10**8),
        "milestones": [
            {
                "title": draw.text(5),
                "due": draw.date(),
                "done": draw.share() < 0.6,
                "tasks": draw.some_of(TRAININGS, 0.5),
            }
            for _ in range(draw.between(3, 7))
        ],
    }


def complaint(draw: Draw, products: list[dict[str, Any]], index: int) -> dict[str, Any]:
    """What a customer was not content with."""
    return {
        "number": index + 1,
        "kind": draw.one_of(KINDS),
        "product": products[draw.between(0, len(products) - 1)]["name"],
        "date": draw.date(),
        "days": draw.between(0, 30),
        "solved": draw.share() < 0.8,
        "text": draw.text(25),
    }


def skewed_records() -> Iterator[dict[str, Any]]:
    """Invoices, of which one in a hundred has a hundred times as many lines and a bit; which ones is at random."""
    chosen = Draw("skewed", -1)
    long = {chosen.between(0, INVOICES - 1) for _ in range(round(INVOICES * LONG))}
    while len(long) < INVOICES * LONG:
        long.add(chosen.between(0, INVOICES - 1))
    for number in range(INVOICES):
        yield invoice(Draw("skewed", number), number, TIMES if number in long else 1)


def invoice(draw: Draw, number: int, times: int) -> dict[str, Any]:
    """An invoice of some twenty lines, or so many times that."""
    return {
        "number": f"2025-{number:06d}",
        "folder": f"{number // 250:03d}",
        "date": draw.date(),
        "customer": {"name": draw.person(), "street": draw.one_of(STREETS), "city": draw.one_of(CITIES)},
        "currency": draw.one_of(CURRENCIES),
        "lines": [
            {
                "article": {"sku": f"S-{draw.between(10_000, 99_999)}", "name": draw.thing()},
                "quantity": draw.between(1, 20),
                "cents": draw.between(100, 50_000),
                "tax": 7 if draw.share() < 0.2 else 19,
            }
            for _ in range(times * draw.between(18, 26))
        ],
    }
