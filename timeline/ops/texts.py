"""Made-up texts: what a post says, from its id and its author alone, the same every time, in the author's language."""

from __future__ import annotations

from timeline.ops.people import handle_of, mixed, people_of

_EMOJI = (
    "☕", "🌞", "🌧️", "🎉", "📚", "🚲", "🐈", "🍜", "🎶", "🌍", "👩‍🚀", "👨‍👩‍👧‍👦", "🏳️‍🌈", "🇯🇵", "👋🏾", "❤️", "1️⃣", "⛰️", "🤖", "🥐",
)  # fmt: skip

# What is happening, and what one thinks of it: every pair makes a post.
_SAYINGS: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "en": (
        ("First coffee on the new balcony.", "The library stays open all night this week.", "Missed the last train again.",
         "Found my grandmother's recipe for plum cake.", "Rain on a tin roof.", "The market has the first cherries.",
         "Someone is practising the trumpet across the street.", "Fixed the bug that was not a bug.", "Long walk by the canal.",
         "They announced it at last."),
        ("Worth it.", "Nobody told me it would be this good.", "I have questions.", "More of this, please.", "Tomorrow again.",
         "Pictures later.", "You should have seen it.", "How was your day?"),
    ),
    "es": (
        ("Por fin llueve en la ciudad.", "El pan de hoy ha salido perfecto.", "Concierto en la plaza esta noche.",
         "He perdido el autobús por un minuto.", "Leyendo en la terraza."),
        ("¡Qué alegría!", "¿Quién se apunta?", "Mañana más.", "No me lo creo todavía.", "Así da gusto."),
    ),
    "de": (
        ("Der Nebel hängt noch über dem Fluss.", "Endlich Erdbeeren auf dem Wochenmarkt.", "Die Straßenbahn fährt heute anders.",
         "Drei Stunden nach dem Schlüssel gesucht.", "Heute Abend spielt die Blaskapelle."),
        ("Schön ist das.", "Wer kommt mit?", "Morgen weiß ich mehr.", "So kann es bleiben.", "Er lag im Kühlschrank."),
    ),
    "pt": (
        ("O mar está calmo esta manhã.", "Pastéis acabados de sair do forno.",
         "A rua cheira a jacarandá.", "Perdi o elétrico outra vez."),
        ("Que maravilha!", "Quem vem?", "Amanhã há mais.", "Não há pressa."),
    ),
    "ru": (
        ("Утро, чай и открытое окно.", "Первый снег в этом году.", "Нашла старые письма на чердаке.", "Поезд опаздывает на час.",
         "Сегодня в парке играет оркестр."),
        ("Как же хорошо.", "Кто со мной?", "Завтра продолжу.", "Так и живём.", "Хочу ещё."),
    ),
    "el": (
        ("Η θάλασσα σήμερα είναι λάδι.", "Φρέσκο ψωμί από τον φούρνο.", "Χάθηκα πάλι στα στενά.", "Το φεγγάρι πάνω από το λιμάνι."),
        ("Τι ωραία!", "Ποιος έρχεται;", "Αύριο πάλι.", "Αξίζει τον κόπο."),
    ),
    "ar": (
        ("صباح الخير من شرفة تطل على البحر.", "رائحة الخبز تملأ الحي.", "انتهيت من قراءة الكتاب أخيرا.", "القطار متأخر مرة أخرى.",
         "الليلة حفلة في الساحة."),
        ("يا له من يوم جميل!", "من يأتي معي؟", "غدا نكمل.", "لا أصدق بعد.", "الصور لاحقا."),
    ),
    "he": (
        ("בוקר טוב מהמרפסת.", "השוק מלא בתותים.", "סוף סוף גשם.", "מצאתי את המתכון של סבתא.", "הרכבת שוב מאחרת."),
        ("איזה כיף!", "מי בא?", "מחר ממשיכים.", "שווה את זה.", "תמונות בהמשך."),
    ),
    "hi": (
        ("सुबह की चाय और बारिश।", "बाज़ार में पहले आम आ गए।", "आज किताब पूरी पढ़ ली।", "ट्रेन फिर से देर से है।"),
        ("क्या बात है!", "कौन चलेगा?", "कल फिर मिलते हैं।", "मज़ा आ गया।"),
    ),
    "ja": (
        ("今朝は霧が深い。", "駅前のパン屋が新しくなった。", "祖母のレシピを見つけた。",
         "終電を逃した。", "川沿いを散歩中。", "桜がもう少しで満開。"),
        ("最高です。", "一緒に行きませんか？", "続きはまた明日。", "写真はあとで。", "まだ信じられない。"),
    ),
    "ko": (
        ("오늘 아침은 커피 향이 좋다.", "시장에 첫 딸기가 나왔다.", "막차를 놓쳤다.",
         "비 오는 날 책 읽기.", "골목에서 고양이를 만났다."),
        ("정말 좋다!", "같이 갈 사람?", "내일 또.", "사진은 나중에.", "아직도 믿기지 않아."),
    ),
    "zh": (
        ("今天早上的茶特别香。", "巷口的面馆又开门了。", "终于下雨了。", "末班车又错过了。", "在河边走了很久。", "院子里的桂花开了。"),
        ("真好。", "有人一起去吗？", "明天继续。", "照片稍后发。", "还是不敢相信。"),
    ),
    "th": (
        ("ฝนตกตั้งแต่เช้า", "ตลาดมีมะม่วงลูกแรกแล้ว", "กาแฟร้อนกับหนังสือเล่มใหม่", "พลาดรถไฟเที่ยวสุดท้าย"),
        ("ดีจัง!", "ใครไปด้วยกันบ้าง", "พรุ่งนี้ต่อ", "คุ้มค่ามาก"),
    ),
}  # fmt: skip


def text_of(post_id: int, author: int, mentioned: int | None = None) -> str:
    """What the author says in this post; `mentioned` is named by handle."""
    lot = mixed(post_id ^ (author << 20))
    happens, thinks = _SAYINGS[people_of(author).language]
    words = [happens[lot % len(happens)], thinks[(lot >> 8) % len(thinks)]]
    if mentioned is not None:
        words.insert((lot >> 16) % 2, f"@{handle_of(mentioned)}")
    signs = (0, 0, 1, 1, 2)[(lot >> 24) % 5]
    words += [_EMOJI[(lot >> (32 + 8 * number)) % len(_EMOJI)] for number in range(signs)]
    return " ".join(words)
