"""Whether a model declined, or asked back, where it was asked for a thought.

A refusal speaks of the conversation (of me, of you, of the question) and of nothing else, or it says in so
many words what the speaker cannot do. A thought in the first person, or about AI, sorrow or requests, has a
subject of its own. Measured on labelled sentences: `benchmarks/synth_checks.py`.
"""

from __future__ import annotations

import re

from o1_records.kit.text import words

_BEGINNING = 45  # words of a text in which a refusal shows
_SUBJECT = 0.2  # of a refusal's words, at most, are about anything but the conversation
_FIRST_SUBJECT = 0.1  # the same of its first clause, whatever follows: "I can't do that, but"

# words of a conversation about itself: small ones, what assistants do, and what they say of themselves
_CONVERSATION = frozenset(
    words("""
    i you me my your yours we us it that this there what which who how why where when can could would will
    may might must should do does did done has have had be am is are was were been being to for with of on
    in at about from by into over than then and or but so if as because since due any some more enough
    further additional specific all just only also too very really quite however therefore instead the a an
    its these those here today now again first let not no none never nothing neither nor cannot isn don
    doesn didn won wouldn couldn can't n t s m re ve ll d sorry apologize apologise apologies apology
    unfortunately regrettably afraid please thanks thank hello hi hey hmm sure course certainly happy glad
    help helping helpful assist assisting assistance assistant answer answers answering answered reply
    respond response responses question questions query queries request requests ask asks asked asking
    prompt message messages input conversation topic topics task information info detail details context
    access accessing able unable ability abilities capable capability capabilities provide provided
    providing give giving given share sharing tell telling say saying talk talking discuss discussing
    discussion write writing generate create produce know knowing known knowledge understand understanding
    understood clear unclear sure unsure clarify clarification rephrase specify mean want wanted wish like
    need needed see look looking find willing decline declining refuse refusing comply fulfill fulfil
    allowed allow permitted forbid forbidden comfortable appropriate inappropriate unethical guidelines
    policy policies rules terms programmed designed trained instructed training developed created ai
    artificial intelligence language model models chatbot bot opinion opinions feelings preferences beliefs
    experience experiences personal name idea version comment missing trained data until thing things
    something anything else other another kind sort type way possible impossible try send sent paste empty
    cut off bit vague ambiguous rather turn down limited limits limitations scope beyond outside purpose
    general check verify confirm unknown
    """)
)
_PERSON = re.compile(
    r"\b(?:i|me|my|we|us|you|your|sorry|apologies)\b|\b(?:this|the) (?:request|question|query|message"
    r"|prompt|conversation)\b",
    re.IGNORECASE,
)
_DENIES_OR_ASKS = re.compile(
    r"\b(?:not|no|cannot|\w+n't|unable|never|nothing|sorry|decline|refuse|unfortunately|afraid|without|forbid"
    r"|only|outside|beyond|unethical|inappropriate|limited|unclear|unknown|need|please|happy to"
    r"|let me know|missing)\b|\?",
    re.IGNORECASE,
)

_CANNOT = (
    r"(?:can ?not|can't|could not|couldn't|will not|won't|would not|wouldn't"
    r"|(?:am|are|'m|'re) (?:\w+ )?(?:unable|not (?:able|allowed|permitted|qualified|in a position)))"
)
_SERVE = (
    r"(?:help (?:you|with)|assist|answer|comply|fulfil+|discuss|talk about|engage|participate|take part"
    r"|diagnose|prescribe|advise|recommend|advocate|promote|support|encourage|condone|endorse|browse|access"
    r"|disclose|reveal|share|provid\w+|offer|generate|create|write|produce|give (?:you|out|\w+ advice)"
    r"|tell you|walk you|view|predict|make phone calls)"
)
_MODEL = (
    r"(?:just |only |merely )?an? (?:\w+ )?(?:ai(?: language model| assistant| model)?"
    r"|artificial intelligence|language model|assistant|chatbot)"
)
_MADE = r"(?:developed|created|designed|built|made|programmed|trained|instructed)"
_MADE_BY = rf"{_MADE} by\b"
_HAVE_NO = r"(?:(?:do not|don't) (?:currently |really |actually )?(?:have|hold|possess)|lack|have no)"
_ATTACHED = r"(?:images?|pictures?|photos?|videos?|audio|recordings?|links|attachments?|websites?)"
_CLAUSE_ENDS = re.compile(r"[.!?;]|, but\b")
_IN_SO_MANY_WORDS = tuple(
    re.compile(pattern, re.IGNORECASE)
    for pattern in (
        # "I cannot provide", "I'm not able to really discuss"
        rf"\bi ?{_CANNOT}(?: and (?:cannot|will not))?(?: be able)?(?: to| with)?(?: \w+ly)? {_SERVE}\b",
        # "I can't look up your order"
        rf"\bi ?{_CANNOT}\b[^.!?]{{0,60}}\byour?\b",
        # "Sorry, but I don't have", "Unfortunately I can't"
        rf"\b(?:sorry|apologi[sz]e|apologies|unfortunately|regrettably|afraid)\b[^.!?:]{{0,40}}"
        rf"\bi ?(?:{_CANNOT}|(?:do not|don't) (?:know|have|understand))\b",
        # "As an AI, I", "As an AI language model developed by X, I", but not "Use it as a chatbot and"
        rf"\b(?:as|being|just) {_MODEL}"
        rf"(?:,? i\b|, my\b| (?:and\b|{_MADE_BY})[^.!?]{{0,60}}, (?:i|my)\b)",
        # "I'm just an AI and", "I'm Qwen, an AI designed by"
        rf"\bi(?: am|'m)(?: \w+,)? {_MODEL}(?:,? i\b|, my\b| and\b|\.| {_MADE_BY})",
        # "I must decline", "I'm not a lawyer"
        r"\bi(?: am|'m|'ll)? ?(?:must|have to|need to|going to|will)(?: \w+ly)?(?: have to)?"
        r" (?:(?:decline|refuse|refrain)(?: to| from\b| this\b| here\b|[.,;]|$)|pass on this)",
        r"\bi (?:refuse|decline) to (?:help|take part|answer)\b",
        r"\bi(?: am|'m) not (?:a (?:doctor|lawyer|medical|financial|licensed)|qualified|in a position)\b",
        r"\bi only (?:know about things|have information)\b|\bi have no (?:way of|knowledge of)\b",
        # "I do not have real-time access", "I lack the ability to"
        rf"\bi (?:currently |still )?{_HAVE_NO}"
        r"(?: (?:any|the|enough|direct|personal|political|real-?time|sufficient|such|current|specific|live))*"
        r" (?:access to|ability to|capability to|information|opinions?|feelings|experiences?|memor(?:y|ies)"
        r"|preferences|beliefs|emotions|(?:\w+ )?views|weather|prices?|data (?:on|from|about|after|beyond)"
        r"|records? of|up-to-date)\b",
        # "I was made by a company and", "I'm not designed to"
        rf"\bi(?: am|'m| was|'ve been| have been) (?:\w+ )?{_MADE} (?:by|to|not to|for|on data)\b",
        # "I'm just a program, so I"
        r"\bi(?: am|'m) (?:just |only |merely )an? (?:\w+ )?(?:program|machine|computer|model|bot|tool)\b",
        # "so I won't.", "I advise against this and will not help with it"
        r"\bi(?: would|'d)? (?:will not|won't|can't|cannot|can not|rather not)(?: do (?:so|that|this|it))?"
        r"(?:[.;!]|, (?:but|as|because|since)\b|$)",
        r"\bi (?:[^.!?]{0,60}\band )?(?:will not|won't|cannot|can't)"
        r" (?:help with|go along with|take part in|be part of|assist)\b",
        # "I'd rather not say", "I'd rather talk about something else"
        rf"\bi(?:'d| would)? (?:rather|prefer)(?: to)?"
        rf" (?:not (?:to )?(?:say|get into|{_SERVE})|talk about)\b",
        r"\btalk about something else\b|\b(?:is|are) off limits for me\b|^no comment\b",
        # "a request I have to turn down"
        r"\b(?:question|request|query|one|topic|task)s? (?:that |which )?i(?:'ll| will|'m| am)?"
        r" (?:have to|must|need to|going to|want to)? ?(?:turn down|decline|refuse|pass on|skip)\b",
        # "I am not able to look at images or listen to recordings"
        rf"\bi ?{_CANNOT}(?: to)? (?:see|look at|view|open|listen to|watch|play|read|process)"
        rf" (?:\w+ ){{0,2}}{_ATTACHED}\b",
        # "Without seeing the paper, I can't say", "I can't say without knowing"
        rf"\bwithout (?:seeing|knowing|having|access to|more)\b[^.!?]{{0,60}}, i ?{_CANNOT}\b",
        rf"\bi ?{_CANNOT}\b[^.!?]{{0,60}}\bwithout (?:seeing|knowing|having seen|access to|more (?:context"
        r"|information|detail))",
        # "I would have to see the code before I could help"
        r"\bi(?:'d| would) (?:have|need) to (?:see|know|read|have)\b[^.!?]{0,60}\b(?:before|in order"
        r"|to (?:help|answer|say|tell))\b",
        # "Tell me and I will write the code"
        r"\b(?:please|tell me|share|provide|paste|send|give me)\b[^.!?]{0,60}\b(?:and|so|so that) i"
        r"(?:'ll| will| can)\b",
        # "Ask me anything", "Please let me know what"
        r"\bask me (?:anything|about|a)\b",
        r"\bplease (?:let me know|tell me|clarify|specify|rephrase) (?:what|which|if|how|where|whether|your"
        r"|the)\b",
        # "Which file do you mean?"
        r"\byou (?:have in mind|are (?:asking|referring)|mean|refer(?:ring)?)\b[^.!]{0,40}\?",
        r"\bare you (?:asking|referring|looking|interested|talking)\b",
        r"\b(?:your|this) (?:question|request|query|message|prompt) is (?:too |very |quite )?"
        r"(?:vague|ambiguous|unclear|unsafe|harmful|broad)\b",
        r"\bi(?: am|'m) (?:ending|closing) (?:it|this|the)\b",
        r"\bmy (?:knowledge cut-?off|training data|information stops|guidelines|programming|polic(?:y"
        r"|ies))\b",
        r"\b(?:against|violates?) (?:my|our) (?:\w+ )?(?:usage |content )?(?:guidelines|polic(?:y|ies)"
        r"|terms of (?:use|service))\b",
        r"\bnot enough (?:information|context|detail) in the (?:query|question|request)\b",
    )
)


def is_refusal(text: str) -> bool:
    """Whether a text begins as models decline, or ask back: "I'm sorry, but I can't"."""
    head = " ".join(text.replace("’", "'").split(maxsplit=_BEGINNING)[:_BEGINNING])
    if any(pattern.search(head) for pattern in _IN_SO_MANY_WORDS):
        return True
    first = _CLAUSE_ENDS.split(head, maxsplit=1)[0]
    return _declines(head, _SUBJECT) or _declines(first, _FIRST_SUBJECT)


def _declines(text: str, most: float) -> bool:
    """Whether a text denies or asks something, about the conversation but for a share of its words."""
    said = words(text)
    subject = sum(word not in _CONVERSATION for word in said)
    about_itself = bool(said) and subject <= most * len(said)
    return about_itself and bool(_PERSON.search(text)) and bool(_DENIES_OR_ASKS.search(text))
