"""Bounds of input tokens: above what each tokenizer counts, and close to it on English."""

import asyncio
import base64
import functools
import hashlib
import importlib.util
import inspect
import json
import random
from collections.abc import Callable
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from fusion import Limits, Price, Say, ScriptedModel
from fusion.core.types import Message, Request, Usage
from fusion.models import tokens
from fusion.models.base import input_bound
from fusion.models.tokens import Margins, TokenBounds
from tests.conftest import pipeline, run

LUCK = random.Random(7)
# ruff: noqa: E501 - the first article of the Universal Declaration of Human Rights, in 24 languages
ARTICLES: dict[str, str] = {
    "English": "All human beings are born free and equal in dignity and rights. They are endowed with reason and conscience and should act towards one another in a spirit of brotherhood.",
    "French": "Tous les êtres humains naissent libres et égaux en dignité et en droits. Ils sont doués de raison et de conscience et doivent agir les uns envers les autres dans un esprit de fraternité.",
    "German": "Alle Menschen sind frei und gleich an Würde und Rechten geboren. Sie sind mit Vernunft und Gewissen begabt und sollen einander im Geist der Brüderlichkeit begegnen.",
    "Spanish": "Todos los seres humanos nacen libres e iguales en dignidad y derechos y, dotados como están de razón y conciencia, deben comportarse fraternalmente los unos con los otros.",
    "Polish": "Wszyscy ludzie rodzą się wolni i równi pod względem swej godności i swych praw. Są oni obdarzeni rozumem i sumieniem i powinni postępować wobec innych w duchu braterstwa.",
    "Finnish": "Kaikki ihmiset syntyvät vapaina ja tasavertaisina arvoltaan ja oikeuksiltaan. Heille on annettu järki ja omatunto, ja heidän on toimittava toisiaan kohtaan veljeyden hengessä.",
    "Turkish": "Bütün insanlar hür, haysiyet ve haklar bakımından eşit doğarlar. Akıl ve vicdana sahiptirler ve birbirlerine karşı kardeşlik zihniyeti ile hareket etmelidirler.",
    "Vietnamese": "Tất cả mọi người sinh ra đều được tự do và bình đẳng về nhân phẩm và quyền lợi. Mọi con người đều được tạo hóa ban cho lý trí và lương tâm và cần phải đối xử với nhau trong tình bằng hữu.",
    "Swahili": "Watu wote wamezaliwa huru, hadhi na haki zao ni sawa. Wote wamejaliwa akili na dhamiri, hivyo yapasa watendeane kindugu.",
    "Russian": "Все люди рождаются свободными и равными в своем достоинстве и правах. Они наделены разумом и совестью и должны поступать в отношении друг друга в духе братства.",
    "Greek": "Όλοι οι άνθρωποι γεννιούνται ελεύθεροι και ίσοι στην αξιοπρέπεια και τα δικαιώματα. Είναι προικισμένοι με λογική και συνείδηση, και οφείλουν να συμπεριφέρονται μεταξύ τους με πνεύμα αδελφοσύνης.",
    "Hebrew": "כל בני האדם נולדו בני חורין ושווים בערכם ובזכויותיהם. כולם חוננו בתבונה ובמצפון, לפיכך חובה עליהם לנהוג איש ברעהו ברוח של אחווה.",
    "Arabic": "يولد جميع الناس أحرارا متساوين في الكرامة والحقوق، وقد وهبوا عقلا وضميرا وعليهم أن يعامل بعضهم بعضا بروح الإخاء.",
    "Hindi": "सभी मनुष्यों को गौरव और अधिकारों के मामले में जन्मजात स्वतन्त्रता और समानता प्राप्त है। उन्हें बुद्धि और अन्तरात्मा की देन प्राप्त है और परस्पर उन्हें भाईचारे के भाव से बर्ताव करना चाहिए।",
    "Bengali": "সমস্ত মানুষ স্বাধীনভাবে সমান মর্যাদা এবং অধিকার নিয়ে জন্মগ্রহণ করে। তাঁদের বিবেক এবং বুদ্ধি আছে; সুতরাং সকলেরই একে অপরের প্রতি ভ্রাতৃত্বসুলভ মনোভাব নিয়ে আচরণ করা উচিত।",
    "Tamil": "மனிதப் பிறிவியினர் சகலரும் சுதந்திரமாகவே பிறக்கின்றனர்; அவர்கள் மதிப்பிலும், உரிமைகளிலும் சமமானவர்கள், அவர்கள் நியாயத்தையும் மனச்சாட்சியையும் இயற்பண்பாகப் பெற்றவர்கள்.",
    "Thai": "มนุษย์ทั้งหลายเกิดมามีอิสระและเสมอภาคกันในเกียรติศักดิ์และสิทธิ ต่างมีเหตุผลและมโนธรรม และควรปฏิบัติต่อกันด้วยเจตนารมณ์แห่งภราดรภาพ",
    "Chinese": "人人生而自由,在尊严和权利上一律平等。他们赋有理性和良心,并应以兄弟关系的精神相对待。",
    "Japanese": "すべての人間は、生まれながらにして自由であり、かつ、尊厳と権利とについて平等である。人間は、理性と良心とを授けられており、互いに同胞の精神をもって行動しなければならない。",
    "Korean": "모든 인간은 태어날 때부터 자유로우며 그 존엄과 권리에 있어 동등하다. 인간은 천부적으로 이성과 양심을 부여받았으며 서로 형제애의 정신으로 행동하여야 한다.",
    "Amharic": "የሰው ልጅ ሁሉ ሲወለድ ነጻና በክብርና በመብትም እኩልነት ያለው ነው። የተፈጥሮ ማስተዋልና ሕሊና ስላለው አንዱ ሌላውን በወንድማማችነት መንፈስ መመልከት ይገባዋል።",
    "Georgian": "ყველა ადამიანი იბადება თავისუფალი და თანასწორი თავისი ღირსებითა და უფლებებით. მათ მინიჭებული აქვთ გონება და სინდისი და ერთმანეთის მიმართ უნდა იქცეოდნენ ძმობის სულისკვეთებით.",
    "Armenian": "Բոլոր մարդիկ ծնվում են ազատ ու հավասար իրենց արժանապատվությամբ ու իրավունքներով։ Նրանք ունեն բանականություն ու խիղճ և միմյանց պետք է եղբայրաբար վերաբերվեն։",
    "Burmese": "လူတိုင်းသည် တူညီ လွတ်လပ်သော ဂုဏ်သိက္ခာဖြင့် လည်းကောင်း၊ တူညီလွတ်လပ်သော အခွင့်အရေးများဖြင့် လည်းကောင်း၊ မွေးဖွားလာသူများ ဖြစ်သည်။",
}

HASHES = b"".join(hashlib.sha256(str(number).encode()).digest() for number in range(90))
OTHERS = {
    "emoji": "👩‍👩‍👧‍👦🏳️‍🌈👍🏽🎉🐢🇳🇴🤷‍♀️✨🔥 " * 20,
    "code": inspect.getsource(asyncio.base_events)[:20_000],
    "json": json.dumps([{"id": n, "name": f"item {n}", "value": LUCK.random()} for n in range(80)], indent=2),
    "base64": base64.b64encode(HASHES).decode(),
    "hex": HASHES.hex(),
    "digits": "".join(str(LUCK.randrange(10)) for _ in range(2000)),
    "rows": "\n".join(f"{n};{LUCK.randrange(10**6) / 100:.2f};2026-01-{n % 28 + 1:02};ACME-{n}" for n in range(200)),
    "spaces": "a" + " " * 3000 + "b",
    "line feeds": "\n" * 2000,
    "tabs": "\t\t\t\tx = 1;\n" * 200,
    "dots": "." * 3000,
    "dashes": "-" * 3000,
    "a table": "| a | b | c |\n|---|---|---|\n" * 100,
    "capitals": "THE QUICK BROWN FOX JUMPS OVER THE LAZY DOG. " * 30,
    "formulas": r"\frac{\partial^2 u}{\partial x^2} + \sum_{i=0}^{n} \alpha_i \cdot \beta^{i+1} \\ " * 30,
    "any ASCII": "".join(chr(LUCK.randrange(33, 127)) for _ in range(3000)),
    "any ideographs": "".join(chr(LUCK.randrange(0x4E00, 0x9FFF)) for _ in range(800)),
    "rare ideographs": "".join(chr(LUCK.randrange(0x20000, 0x2A6DF)) for _ in range(500)),
    "marks": "".join(letter + "\u0301\u0327\u0330" for letter in "the quick brown fox" * 20),
    "a script": "function(e,t){var n=e.a,r=t.b;return n&&r?{x:n+r,y:[n,r].map(function(e){return e*2})}:null}" * 40,
    "addresses": "\n".join(f"https://example.com/{n:x}/{HASHES[n : n + 16].hex()}?q={n}" for n in range(60)),
}
TEXTS = {name: f"{text} " * 5 for name, text in ARTICLES.items()} | OTHERS
COUNTERS = ("cl100k_base", "o200k_base", "p50k_base", "anthropic", "deepseek")


@functools.cache
def counter(name: str) -> Callable[[str], int]:
    """Counts the tokens of a text, with the files in litellm's wheel."""
    spec = importlib.util.find_spec("litellm")
    assert spec is not None
    assert spec.origin is not None
    folder = Path(spec.origin).parent / "litellm_core_utils" / "tokenizers"
    if name in ("anthropic", "deepseek"):
        from tokenizers import Tokenizer

        whole = Tokenizer.from_file(str(folder / f"{name}_tokenizer.json"))
        return lambda text: len(whole.encode(text, add_special_tokens=False).ids)
    import tiktoken

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TIKTOKEN_CACHE_DIR", str(folder))
        encoding = tiktoken.get_encoding(name)
    return lambda text: len(encoding.encode_ordinary(text))


def asked(text: str) -> Request:
    return Request(messages=(Message(role="user", content=text),), max_tokens=50)


@pytest.mark.parametrize("name", TEXTS)
def test_no_tokenizer_counts_more_than_the_bound(name: str) -> None:
    request = asked(TEXTS[name])
    bound = TokenBounds().now(request)
    counts = {each: counter(each)(TEXTS[name]) for each in COUNTERS}
    assert max(counts.values()) <= bound, counts
    assert bound <= input_bound(request)


def test_the_bound_of_english_is_close() -> None:
    text = f"{ARTICLES['English']} " * 100
    largest = max(counter(name)(text) for name in COUNTERS)
    assert TokenBounds().now(asked(text)) <= 1.4 * largest + 80  # the chat format has its own bound


def test_without_the_tokenizer_bytes_are_the_bound(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tokens, "_encoding", lambda: None)
    request = asked(ARTICLES["English"])
    assert TokenBounds().now(request) == input_bound(request)


def test_a_known_text_is_tokenized_once(monkeypatch: pytest.MonkeyPatch) -> None:
    bounds, request = TokenBounds(), asked(ARTICLES["French"] * 200)
    first = asyncio.run(bounds.of(request))
    monkeypatch.setattr(tokens, "_bound", lambda text, size: pytest.fail("tokenized again"))
    assert asyncio.run(bounds.of(request)) == first


ONE = """
inputs: {text: The text.}
stages: {answer: {kind: generate, role: bulk, prompt: "Sum up: {{ inputs.text }}", max_tokens: 200}}
output: answer
"""
PRICE = Price(input=Decimal("0.000004"), output=Decimal("0.00002"))


def model(counted: int | None = None) -> ScriptedModel:
    def script(request: Request) -> Say:
        taken = sum(counter("cl100k_base")(message.content) for message in request.messages)
        return Say("short", usage=Usage(input=counted or taken, output=2))

    return ScriptedModel(script, name="m/one", price=PRICE)


@pytest.mark.parametrize("limit", [Limits(usd=Decimal("0.30")), Limits(tokens=60_000)])
def test_a_long_document_fits_a_cap_that_its_bytes_do_not(fusion: Any, limit: Limits) -> None:
    text = f"{ARTICLES['English']} " * 1090  # 36,000 tokens, 187,000 bytes
    result, _ = run(fusion({"bulk": model()}), text, pipeline=pipeline(ONE), budget=limit)
    assert result.status == "ok", result.error
    assert 35_000 < result.usage.input < 37_500


def test_what_does_not_fit_by_tokens_either_is_refused(fusion: Any) -> None:
    text = f"{ARTICLES['English']} " * 1090
    one = model()
    result, _ = run(fusion({"bulk": one}), text, pipeline=pipeline(ONE), budget=Limits(tokens=40_000))
    assert (result.error and result.error.reason) == "BudgetError"
    assert one.requests == []


def test_a_provider_that_counts_more_is_settled_in_full_and_raises_the_margin(fusion: Any) -> None:
    text = f"{ARTICLES['English']} " * 20  # 660 tokens, 3,400 bytes
    one = model(counted=5000)
    made = fusion({"bulk": one})
    first, _ = run(made, text, pipeline=pipeline(ONE), budget=Limits(tokens=4_000))
    assert (first.status, first.usage.input) == ("ok", 5000)
    second, _ = run(made, text, pipeline=pipeline(ONE), budget=Limits(tokens=4_000))
    assert (second.error and second.error.reason) == "BudgetError"
    assert len(one.requests) == 1


def test_margins_grow_with_what_is_counted() -> None:
    margins = Margins()
    assert margins.over("m", 100) == 100
    assert "m" not in margins
    margins.learn("m", 100, 150)
    margins.learn("m", 100, 120)
    assert (margins.over("m", 100), margins.over("other", 100)) == (150, 100)


@pytest.mark.parametrize(("cap", "likely"), [("0.30", True), ("0.10", False)])
def test_the_quote_has_the_same_bound(fusion: Any, cap: str, likely: bool) -> None:
    text = f"{ARTICLES['English']} " * 1090
    quote = fusion({"bulk": model()}).quote(text, pipeline=pipeline(ONE), budget=Limits(usd=Decimal(cap)))
    assert quote.usd.cap == Decimal(cap)
    assert (quote.usd.likely > Decimal("0.1")) == likely
