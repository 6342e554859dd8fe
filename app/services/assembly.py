"""Assembly: a checked chat request in the form of what the model is asked, with what its character and its session add.

The request's own fields win over the character's, and those over the settings. The past turns are the request's, or
those that its session has.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

from app.characters.character import Character
from app.characters.characters import EVERYBODYS, Characters, NoCharacters
from app.characters.speaking import Script, opening_turn, script
from app.config import Config
from app.errors import ValidationException
from app.ledger.accounts import Principal
from app.models import ChatRequest, Generation, Message
from app.services import prompt
from app.services.remembering import NewTurn
from app.services.rules import broken_rules, read_turns
from app.sessions.conversation import Turn, joined_to_user, messages_of, newest, turns_of
from app.sessions.turns import OpenTurn
from app.tokens import estimate_tokens

SESSION_MAX_CONTEXT_TOKENS = 8000
"""`max_context_tokens` of a remembered turn where neither the request nor the setting says one."""
NO_DEFAULTS: frozenset[str] = frozenset()
NO_TEMPERATURE = frozenset({"temperature"})


@dataclass(frozen=True)
class Checked:
    """A request that keeps all rules, the past turns that it brings, and who is to speak, if it says so."""

    request: ChatRequest
    history: Sequence[Message]
    character: Character | None = None


@dataclass(frozen=True)
class Assembled:
    """What the model is asked, with estimated tokens by part. `character`: which version of whom speaks."""

    generation: Generation
    tokens: dict[str, int]
    dropped_turns: int
    character: str = ""


@dataclass(frozen=True)
class _Past:
    """The past turns that are sent, with their tokens, what the user says behind them, and how many turns were left
    out. `left`: tokens that are not used yet; None is no limit."""

    messages: Sequence[Message]
    tokens: int
    user_message: str
    dropped: int
    left: int | None


class Assembler:
    """Makes what the model is asked, by the settings."""

    def __init__(self, config: Config, characters: Characters | NoCharacters | None = None) -> None:
        self._config = config
        self._characters = characters or NoCharacters()
        self._headings = prompt.Headings(
            role=config.prompt_heading_role,
            description=config.prompt_heading_description,
            speech_style=config.prompt_heading_speech_style,
            lore=config.prompt_heading_lore,
            memory=config.prompt_heading_memory,
            instructions=config.prompt_heading_instructions,
            summary=config.prompt_heading_summary,
        )

    def check(self, request: ChatRequest, principal: Principal) -> Checked:
        """Check every rule; raises one ValidationException that names each broken one, and ChatServiceException
        `character_not_found`."""
        history, turn_errors = read_turns(request.conversation_history or ())
        if errors := broken_rules(request, turn_errors):
            fields = ", ".join(errors)
            raise ValidationException(f"These fields break a rule: {fields}", next(iter(errors)), errors=errors)
        if not request.character:
            return Checked(request, history)
        owner = EVERYBODYS if principal.account is None else principal.account.id
        return Checked(request, history, self._characters.find(request.character, owner))

    def max_context_tokens(self, request: ChatRequest) -> int:
        """How long the prompt may be, in estimated tokens; 0 is no limit."""
        limit = request.max_context_tokens or self._config.default_max_context_tokens
        return limit or (SESSION_MAX_CONTEXT_TOKENS if request.remember else 0)

    def new_turn(self, checked: Checked) -> NewTurn:
        """What the request brings to its session, where it wants to be remembered."""
        most = self.max_context_tokens(checked.request)
        speaker = checked.character.label if checked.character else None
        return NewTurn(checked.request, self._opening(checked), most, speaker)

    def _opening(self, checked: Checked) -> tuple[Turn, ...]:
        """The turns with which a session begins: the history that the request brings, else what its character says
        first."""
        if checked.history or checked.character is None:
            return tuple(turns_of(checked.history))
        said = opening_turn(checked.character, checked.request.user_name or self._config.prompt_user_name)
        return (Turn(None, said["content"], character=checked.character.label),) if said else ()

    def assemble(self, checked: Checked, turn: OpenTurn | None = None) -> Assembled:
        """What the model is asked: after what the request brings, or after what the session has."""
        cast = self._cast(checked, turn)
        request = cast.request
        parts = self.system_parts(request, cast, turn)
        tokens = {name: estimate_tokens(part) for name, part in parts.items()}
        past = self._past(request, checked.history, turn, sum(tokens.values()))
        # In a session what the character says first is a turn, which a summary may cover.
        before = prompt.turns_before(cast.examples, cast.opening if turn is None else None, past.left)
        tokens |= {"history": past.tokens, "user": estimate_tokens(past.user_message)}
        tokens |= {name: prompt.tokens_of(found) for name, found in before.items()}
        user = {"role": "user", "content": past.user_message}
        model = request.model or self._config.default_model
        if turn is not None:
            turn.model = model
        generation = Generation(
            messages=[*system_messages(parts), *itertools.chain(*before.values()), *past.messages, user],
            model=model,
            instructions=request.instructions or "",
            max_tokens=self._config.default_max_tokens if request.max_tokens is None else request.max_tokens,
            temperature=self._config.default_temperature if request.temperature is None else request.temperature,
            response_schema=request.response_schema,
            images=request.images or (),
            defaults=NO_TEMPERATURE if request.temperature is None else NO_DEFAULTS,
        )
        return Assembled(generation, tokens, past.dropped, cast.label)

    def system_parts(self, request: ChatRequest, cast: Script, turn: OpenTurn | None = None) -> dict[str, str]:
        """The parts of the system message by name."""
        given = request.system_message or ""
        return prompt.system_parts(
            given if given.strip() else self._config.default_system_message,
            role=request.role or "",
            memories=(*(request.memory_context or ()), *(turn.memories if turn else ())),
            instructions=request.instructions or "",
            headings=self._headings,
            sections=cast.sections,
            summary=None if turn is None else turn.conversation.summary,
        )

    def _cast(self, checked: Checked, turn: OpenTurn | None) -> Script:
        """The request with what its character gives, if it names one."""
        if checked.character is None:
            return Script(checked.request)
        return script(
            checked.character,
            checked.request,
            checked.history if turn is None else messages_of(turn.past),
            default_system=self._config.default_system_message,
            default_user=self._config.prompt_user_name,
        )

    def _past(self, request: ChatRequest, history: Sequence[Message], turn: OpenTurn | None, used: int) -> _Past:
        """As many of the newest past turns as fit beside the system message, which has `used` tokens."""
        limit, user_message = self.max_context_tokens(request), request.user_message
        left = limit - used - estimate_tokens(user_message)
        if turn is not None:
            turn.room = left
            turns = newest(turn.past, left)
            messages, user_message = joined_to_user(messages_of(turns), user_message)
            dropped = turn.uncovered - len(turns)
        else:
            messages = prompt.newest_turns(history, left) if limit else list(history)
            dropped = len(history) - len(messages)
        tokens = prompt.tokens_of(messages)
        still_left = None if not limit else 0 if dropped else max(0, left - tokens)
        return _Past(messages, tokens, user_message, dropped, still_left)


def system_message(parts: dict[str, str]) -> Message:
    """The parts of the system message as one."""
    return {"role": "system", "content": prompt.system_text(parts)}


def system_messages(parts: dict[str, str]) -> list[Message]:
    """The system message, or nothing where it has no text: some models' templates take no empty one."""
    message = system_message(parts)
    return [message] if message["content"] else []
