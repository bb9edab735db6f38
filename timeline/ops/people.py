"""Made-up people: a handle and a name for any user id, the same every time, in many scripts. Nobody real is meant."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from timeline.domain.ids import UserId
from timeline.domain.model import User

_DIGITS = "0123456789abcdefghijklmnopqrstuvwxyz"
HANDLE_CHARACTERS = 15


@dataclass(frozen=True, slots=True)
class People:
    """Names of one language: given names as (Latin letters, as written), family names as written; who writes the family first."""

    language: str
    given: tuple[tuple[str, str], ...]
    family: tuple[str, ...]
    family_first: bool = False
    between: str = " "


def _given(text: str) -> tuple[tuple[str, str], ...]:
    pairs = (pair.partition(":") for pair in text.split())
    return tuple((latin, written or latin) for latin, _, written in pairs)


def _of(language: str, given: str, family: str, family_first: bool = False, between: str = " ") -> People:
    return People(language, _given(given), tuple(family.split()), family_first, between)


PEOPLES = (
    _of("en", "Ada Grace Miles Ruby Otis Nell Iris Hugo June Felix", "Marlow Finch Okafor Bell Hart Quill Tate Lane"),
    _of("en", "Theo Wren Maya Jonah Cleo Silas Nora Ezra", "Brook Adeyemi Stone Vale Park Rowe Nash"),
    _of(
        "es",
        "Ines:Inés Martin:Martín Lucia:Lucía Bruno Alma Nicolas:Nicolás Sofia:Sofía",
        "Peña Ibáñez Rivas Núñez Soler",
    ),
    _of("de", "Jorg:Jörg Ute Anke Soren:Sören Birte Lars Kathe:Käthe", "Brückner Groß Köhler Winter Sauer Möwe"),
    _of("pt", "Joao:João Ines:Inês Tiago Marta Antonio:António Luzia", "Conceição Simões Prata Falcão Neves"),
    _of("ru", "anna:Анна ivan:Иван olga:Ольга pavel:Павел vera:Вера mila:Мила", "Лесных Зимин Соколик Орлов Речной"),
    _of("el", "eleni:Ελένη nikos:Νίκος maria:Μαρία petros:Πέτρος zoi:Ζωή", "Θαλασσινός Ανέμης Πέτρου Λιακάδας"),
    _of("ar", "amira:أميرة karim:كريم layla:ليلى omar:عمر nour:نور sami:سامي", "البحري النجار الصباغ القمر الحداد"),
    _of("he", "noa:נועה eitan:איתן tamar:תמר yonatan:יונתן maya:מאיה", "אלון ברק שקד נהרי גפן"),
    _of("hi", "asha:आशा rohan:रोहन meera:मीरा arjun:अर्जुन kavya:काव्या", "वर्मा नदी सागर पर्वत जोशी"),
    _of("ja", "haruka:遥 kenta:健太 yui:結衣 sota:颯太 mio:澪 takumi:匠", "青空 森川 星野 小川 花岡", True, " "),
    _of("ko", "jiwoo:지우 minjun:민준 seoyeon:서연 haneul:하늘 bora:보라", "김 이 박 최 한", True, ""),
    _of("zh", "wei:伟 lan:兰 jing:静 hao:浩 mei:梅 yun:云", "林 江 叶 白 石", True, ""),
    _of("th", "ploy:พลอย chai:ชัย mali:มะลิ nam:น้ำ dao:ดาว", "ทองดี ใจงาม แสงจันทร์ ภูเขา"),
)


def mixed(number: int) -> int:
    """A number spread over 64 bits (splitmix64), so that neighbours differ in everything."""
    number = (number * 0x9E3779B97F4A7C15 + 0x9E3779B97F4A7C15) & 0xFFFF_FFFF_FFFF_FFFF
    number = ((number ^ (number >> 30)) * 0xBF58476D1CE4E5B9) & 0xFFFF_FFFF_FFFF_FFFF
    number = ((number ^ (number >> 27)) * 0x94D049BB133111EB) & 0xFFFF_FFFF_FFFF_FFFF
    return number ^ (number >> 31)


def people_of(user_id: int) -> People:
    """Whose language and script this user has."""
    return PEOPLES[mixed(user_id) % len(PEOPLES)]


def handle_of(user_id: int) -> str:
    """Unique without regard to case: it ends in the id, in base 36, behind the only underscore."""
    ending = f"_{_base36(user_id)}"
    return _first(user_id)[0].lower()[: HANDLE_CHARACTERS - len(ending)] + ending


def name_of(user_id: int) -> str:
    people, written = people_of(user_id), _first(user_id)[1]
    family = people.family[(mixed(user_id) >> 32) % len(people.family)]
    parts = (family, written) if people.family_first else (written, family)
    return people.between.join(parts)


def make_users(user_ids: Iterable[int], at_us: int) -> Iterator[User]:
    for user_id in user_ids:
        yield User(
            id=UserId(user_id),
            handle=handle_of(user_id),
            name=name_of(user_id),
            avatar_url=None,
            created_ms=at_us // 1000,
            version=at_us,
        )


def _first(user_id: int) -> tuple[str, str]:
    given = people_of(user_id).given
    return given[(mixed(user_id) >> 16) % len(given)]


def _base36(number: int) -> str:
    text = ""
    while number:
        number, digit = divmod(number, 36)
        text = _DIGITS[digit] + text
    return text or "0"
