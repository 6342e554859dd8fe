"""ChatService: one chat turn, from what the application knows to the model's answer."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Sequence

from app.calls.call import Call
from app.characters.characters import Characters
from app.characters.speaking import Script
from app.config import Config
from app.errors import ValidationException
from app.json_bytes import dump_json
from app.ledger.accounts import NOBODY, Principal
from app.ledger.end_users import known_as
from app.ledger.limits import Ask, check_permission
from app.models import ApiKey, ChatPreview, ChatRequest, ChatResponse, Completion, Generation, Message
from app.services.assembly import Assembled, Assembler, system_message
from app.services.cache import ResponseCache
from app.services.completing import Completing, Listener, ParsedCompletion, parsed
from app.services.exchange import Exchange, OpenExchange
from app.services.remembering import Remembering
from app.services.rules import read_turns
from app.sessions.turns import OpenTurn
from app.tokens import estimate_tokens, image_tokens
from app.units import dollars
from app.upstreams.fleet import NATIVE

ROUTE = "/api/v1/chat"
CompletionCache = ResponseCache[Completion]


class ChatService:
    """Validates, assembles, has it answered. Its collaborators come by constructor; plain Python needs none of them."""

    def __init__(
        self,
        exchange: Exchange | None = None,
        config: Config | None = None,
        cache: CompletionCache | None = None,
        remembering: Remembering | None = None,
        characters: Characters | None = None,
    ) -> None:
        self._config = config or Config.from_env()
        self._exchange = exchange or Exchange.in_process(self._config)
        self._completing = Completing(self._exchange)
        self._cache = cache
        self._remembering = remembering or Remembering()
        self._assembler = Assembler(self._config, characters)
        self._parameters = self._exchange.parameters

    def process_chat_request(
        self,
        request: ChatRequest,
        call: Call | None = None,
        *,
        principal: Principal = NOBODY,
        use_cache: bool = True,
        listener: Listener | None = None,
    ) -> ChatResponse:
        """Answer one chat turn; a `listener` is told the text while it comes.

        Raises ValidationException when the request breaks a rule, ChatServiceException `character_not_found` when there
        is no such character, ConfigurationException when no key may pay,
        OpenAIClientException when upstream fails, ChatServiceException when the server is busy.
        """
        call = call or Call(self._config.request_timeout)
        began = time.monotonic()
        checked = self._assembler.check(request, principal)
        checked_seconds = time.monotonic() - began

        def answer(turn: OpenTurn | None, cache: CompletionCache | None = None) -> ChatResponse:
            began = time.monotonic() - checked_seconds
            heard = listener if turn is None or listener is None else _Heard(listener, turn)
            assembled = self._assembler.assemble(checked, turn)
            ask = _ask(request, assembled, streamed=listener is not None)
            with self._exchange.open(
                ask,
                request.credentials,
                principal,
                call,
                dialect=NATIVE,
                assemble_seconds=time.monotonic() - began,
                beside=turn,
            ) as exchange:
                if cache is None:
                    answer = self._completing.complete(exchange, assembled.generation, heard)
                else:
                    answer = self._cached(cache, exchange, assembled.generation, call, principal, listener)
                if turn is not None:
                    turn.answer = answer.completion.output_text
                response = self._response(request, assembled, answer, call, exchange, turn)
            is_sure = turn is None or (exchange.is_written and turn.is_kept)
            return response if is_sure else dataclasses.replace(response, turn=None, summarised_turns=None)

        if request.remember:
            return self._remembering.turn(self._assembler.new_turn(checked), principal, call, answer)
        return answer(None, self._cache if use_cache else None)

    def preview(self, request: ChatRequest, principal: Principal = NOBODY) -> ChatPreview:
        """What `request` would send upstream and who would pay, without calling upstream or writing anything.

        Raises as a chat turn does, but for what depends on how much the client has used.
        """
        checked = self._assembler.check(request, principal)
        turn = self._remembering.look(self._assembler.new_turn(checked), principal) if request.remember else None
        assembled = self._assembler.assemble(checked, turn)
        ask = _ask(request, assembled, streamed=bool(request.stream))
        plan = self._exchange.plan(ask, request.credentials, principal, NATIVE)
        if principal.account is not None:
            check_permission(principal.account, ask, server_pays=plan.payer.may_be_server)
        first = plan.attempts[0]
        body = self._completing.body(assembled.generation, first, stream=bool(request.stream)).body
        return ChatPreview(
            upstream_path=self._completing.dialect(first).PATH,
            upstream_body=body.decode(),
            api_key_source=first.key.source,
            tokens=assembled.tokens,
            total_tokens=sum(assembled.tokens.values()),
            tokens_estimated=True,
            dropped_turns=assembled.dropped_turns,
            plan=[attempt.described() for attempt in plan.attempts] if plan.is_listed else (),
        )

    def _cached(
        self,
        cache: CompletionCache,
        exchange: OpenExchange,
        generation: Generation,
        call: Call,
        principal: Principal,
        listener: Listener | None,
    ) -> ParsedCompletion:
        """The answer that was kept of an identical request of the same client that the same key paid for, or a new one.

        Shared by all clients, it would tell each of them what another one has asked.
        """
        shape, first = self._completing.dialect(exchange.first).request_body(generation), exchange.payer.first
        owner = "" if principal.account is None else str(principal.account.id)
        new: list[ParsedCompletion] = []

        def place(paid_by: ApiKey) -> bytes:
            # A caller's own key is for one upstream, and another one's answer is not what was asked for.
            at = "" if paid_by.source == "default" else exchange.first.upstream.settings.name
            return cache.key(owner.encode(), paid_by.secret.encode(), at.encode(), shape)

        def fetch() -> tuple[bytes, Completion]:
            new.append(self._completing.complete(exchange, generation, listener))
            return place(exchange.paid_by), new[0].completion

        completion, hit = cache.get_or_fetch(place(first), call, fetch, found=exchange.note_cache)
        if not hit:
            return new[0]
        exchange.answer_from_cache(completion)
        if listener is not None:
            listener.started(generation.model, first.source, cached=True)
            listener.text(completion.output_text)
        return ParsedCompletion(completion, parsed(completion, generation))

    def _response(
        self,
        request: ChatRequest,
        assembled: Assembled,
        answer: ParsedCompletion,
        call: Call,
        exchange: OpenExchange,
        turn: OpenTurn | None,
    ) -> ChatResponse:
        """The answer. It has the place of a remembered turn, which has to be taken out if that is not durable then."""
        generation = assembled.generation
        last = exchange.receipt.last
        is_sent = generation.sends_temperature(self._parameters.of(last.model if last else generation.model))
        response = ChatResponse.from_openai_response(
            answer.completion,
            session_id=request.session_id or "",
            response_time=round(call.elapsed_seconds, 6),
            api_key_source=exchange.receipt.key_source,
            request_id=call.request_id or None,
            instructions=request.instructions or None,
            cached=bool(exchange.receipt.cache_hit),
            dropped_turns=assembled.dropped_turns,
            character=assembled.character or None,
            cost_usd=dollars(exchange.cost_nano()),
            model=generation.model,
            temperature=generation.temperature if is_sent else None,
            turn=None if turn is None else turn.number,
            summarised_turns=None if turn is None else turn.conversation.summary_turns,
        )
        if request.response_schema is None:
            return response
        return dataclasses.replace(response, output_format="json_schema", response_json=answer.json)

    def _validate_request(self, request: ChatRequest) -> None:
        """Check every rule of the chat request; raises one ValidationException that names each broken one."""
        self._assembler.check(dataclasses.replace(request, character=""), NOBODY)

    def _create_system_message(self, request: ChatRequest) -> Message:
        return system_message(self._assembler.system_parts(request, Script(request)))

    def _format_conversation_history(self, history: Sequence[str | Message]) -> list[Message]:
        turns, errors = read_turns(history)
        for index, (message, *_) in errors.items():
            raise ValidationException(message, f"conversation_history[{index}]")
        return turns

    def _create_user_message(self, user_message: str) -> Message:
        return {"role": "user", "content": user_message}


class _Heard:
    """A listener of a turn that is remembered: it keeps what was said, for when the turn is cut."""

    def __init__(self, listener: Listener, turn: OpenTurn) -> None:
        self._listener = listener
        self._pieces: list[str] = []
        self.started, self.delivered = listener.started, listener.delivered
        turn.delivered = lambda: "".join(self._pieces)[: self.delivered()]

    def text(self, piece: str) -> None:
        """See Listener."""
        self._listener.text(piece)
        self._pieces.append(piece)


def _ask(request: ChatRequest, assembled: Assembled, *, streamed: bool) -> Ask:
    return Ask(
        route=ROUTE,
        model=assembled.generation.model,
        session_id=request.session_id or "",
        streamed=streamed,
        prompt_tokens=sum(assembled.tokens.values()) + _unspoken_tokens(assembled.generation),
        max_tokens=assembled.generation.max_tokens,
        end_user=known_as(request.user),
        character=assembled.character,
    )


def _unspoken_tokens(generation: Generation) -> int:
    """Estimated tokens of what goes with the messages: pictures by a figure each, the schema as text."""
    pictures = len(generation.images) * image_tokens(generation.model)
    schema = generation.response_schema
    return pictures + (estimate_tokens(dump_json(schema).decode()) if schema is not None else 0)
