"""ChatService: one chat turn, from what the application knows to upstream's answer."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from app.calls.call import Call
from app.config import Config
from app.errors import ValidationException
from app.ledger.admission import Ask
from app.ledger.ledger import Ledger, NullLedger
from app.ledger.pricing import dollars
from app.models import ChatPreview, ChatRequest, ChatResponse, Generation, Message, UpstreamResponse
from app.services import prompt
from app.services.cache import NullCache, ResponseCache, cache_key
from app.services.rules import TURN_FORMS, broken_rules
from app.services.tokens import estimate_tokens
from app.upstreams.json import load_sound_json
from app.upstreams.keys import KeySelector
from app.upstreams.openai_client import OpenAIClient
from app.upstreams.reply import Listener


@dataclass(frozen=True)
class Assembled:
    """A checked request in the form of what the model is asked, with estimated tokens by part."""

    generation: Generation
    tokens: dict[str, int]
    dropped_turns: int


class ChatService:
    """Validates, assembles, calls, answers. Its collaborators come by constructor; plain Python needs none of them."""

    def __init__(
        self,
        openai_client: OpenAIClient | None = None,
        config: Config | None = None,
        cache: ResponseCache | NullCache | None = None,
        ledger: Ledger | NullLedger | None = None,
    ) -> None:
        self._config = config or Config.from_env()
        self.openai_client = openai_client or OpenAIClient(
            self._config, keys=KeySelector(self._config.openai_api_key, in_process=True)
        )
        self._cache = cache or NullCache()
        self._ledger = ledger or NullLedger()
        self._headings = prompt.Headings(
            role=self._config.prompt_heading_role,
            memory=self._config.prompt_heading_memory,
            instructions=self._config.prompt_heading_instructions,
        )

    def process_chat_request(
        self,
        request: ChatRequest,
        call: Call | None = None,
        *,
        use_cache: bool = True,
        listener: Listener | None = None,
    ) -> ChatResponse:
        """Answer one chat turn; a `listener` hears the text while it comes.

        Raises ValidationException when the request breaks a rule, ConfigurationException when no key may pay,
        OpenAIClientException when upstream fails, ChatServiceException when the server is busy.
        """
        call = call or Call(self._config.request_timeout)
        began = time.monotonic()
        assembled = self._assemble(request)
        call.assemble_seconds = time.monotonic() - began
        cache = self._cache if use_cache else NullCache()
        with self._ledger.open(call, self._ask(request, assembled, streamed=listener is not None)) as entry:
            response, source, cached = self._generate(request, assembled.generation, call, cache, listener)
            entry.cached = cached
            structured = _structured(response) if request.response_schema is not None else {}
            answer = ChatResponse.from_openai_response(
                response,
                session_id=request.session_id or "",
                response_time=round(call.elapsed_seconds, 6),
                api_key_source=source,
                request_id=call.request_id or None,
                instructions=request.instructions or None,
                cached=cached,
                dropped_turns=assembled.dropped_turns,
                cost_usd=dollars(entry.cost_nano()),
                model=assembled.generation.model,
                temperature=assembled.generation.temperature,
            )
        return dataclasses.replace(answer, **structured)

    def preview(self, request: ChatRequest) -> ChatPreview:
        """What `request` would send upstream and who would pay, without calling upstream; raises as a chat turn."""
        assembled = self._assemble(request)
        client = self.openai_client
        key = client.keys.select(request.openai_api_key, bool(request.free_mode))
        body = client.api.request_body(assembled.generation, stream=bool(request.stream))
        return ChatPreview(
            upstream_path=client.api.PATH,
            upstream_body=body.decode(),
            api_key_source=key.source,
            tokens=assembled.tokens,
            total_tokens=sum(assembled.tokens.values()),
            tokens_estimated=True,
            dropped_turns=assembled.dropped_turns,
        )

    def _assemble(self, request: ChatRequest) -> Assembled:
        """Check the rules and put together what the model is asked."""
        self._validate_request(request)
        system = self._create_system_message(request)
        turns = self._format_conversation_history(request.conversation_history or [])
        user = self._create_user_message(request.user_message)
        tokens = {name: estimate_tokens(part) for name, part in self._system_parts(request).items()}
        limit = request.max_context_tokens or self._config.default_max_context_tokens
        spoken = estimate_tokens(user["content"])
        kept = prompt.newest_turns(turns, limit - sum(tokens.values()) - spoken) if limit else turns
        tokens |= {"history": sum(estimate_tokens(turn["content"]) for turn in kept), "user": spoken}
        generation = Generation(
            messages=[system, *kept, user],
            model=request.model or self._config.default_model,
            instructions=request.instructions or "",
            max_tokens=self._config.default_max_tokens if request.max_tokens is None else request.max_tokens,
            temperature=self._config.default_temperature if request.temperature is None else request.temperature,
            response_schema=request.response_schema,
            images=request.images or (),
        )
        return Assembled(generation, tokens, len(turns) - len(kept))

    def _ask(self, request: ChatRequest, assembled: Assembled, *, streamed: bool) -> Ask:
        """What admission has to know; a request that no key may pay for is refused before it is admitted."""
        key = self.openai_client.keys.select(request.openai_api_key, bool(request.free_mode))
        return Ask(
            route="/api/v1/chat",
            model=assembled.generation.model,
            session_id=request.session_id or "",
            streamed=streamed,
            prompt_tokens=sum(assembled.tokens.values()),
            max_tokens=assembled.generation.max_tokens,
            server_pays=bool(request.free_mode) or key.source == "default",
        )

    def _generate(
        self,
        request: ChatRequest,
        generation: Generation,
        call: Call,
        cache: ResponseCache | NullCache,
        listener: Listener | None,
    ) -> tuple[UpstreamResponse, str, bool]:
        """The answer, whose key paid for it, and whether it came from the cache."""
        client, api_key, free_mode = self.openai_client, request.openai_api_key, bool(request.free_mode)
        payer = client.keys.select(api_key, free_mode)
        body = client.api.request_body(generation)
        fetched: list[tuple[UpstreamResponse, str]] = []

        def fetch() -> tuple[bytes, bytes]:
            response, _, source = client.generate_response(
                **vars(generation), api_key=api_key, free_mode=free_mode, call=call, listener=listener
            )
            if request.response_schema is not None:
                # What does not parse is a failure, and failures are not kept.
                load_sound_json(response.output_text)
            fetched.append((response, source))
            return cache_key(client.keys.digest(client.keys.payer(source, api_key)), body), response.raw

        raw, cached = cache.get_or_fetch(cache_key(client.keys.digest(payer.secret), body), call, fetch)
        if not cached:
            return *fetched[0], False
        response = client.api.parse_response(raw)
        call.api_key_source, call.paid_with = payer.source, payer
        call.usage, call.model_answered = response.usage, response.model
        if listener is not None:
            listener.started(generation.model, payer.source, cached=True)
            listener.text(response.output_text)
        return response, payer.source, True

    def _validate_request(self, request: ChatRequest) -> None:
        """Check every rule of the chat request; raises one ValidationException that names each broken one."""
        errors = broken_rules(request)
        if errors:
            field = next(iter(errors))
            raise ValidationException(f"These fields break a rule: {', '.join(errors)}", field, errors=errors)

    def _system_parts(self, request: ChatRequest) -> dict[str, str]:
        given = request.system_message or ""
        return prompt.system_parts(
            given if given.strip() else self._config.default_system_message,
            role=request.role or "",
            memories=request.memory_context or (),
            instructions=request.instructions or "",
            headings=self._headings,
        )

    def _create_system_message(self, request: ChatRequest) -> Message:
        return {"role": "system", "content": prompt.system_text(self._system_parts(request))}

    def _format_conversation_history(self, history: Sequence[str | Message]) -> list[Message]:
        turns = [prompt.parse_turn(entry) for entry in history]
        if None in turns:
            index = turns.index(None)
            raise ValidationException(TURN_FORMS, f"conversation_history[{index}]")
        return [turn for turn in turns if turn]

    def _create_user_message(self, user_message: str) -> Message:
        return {"role": "user", "content": user_message}


def _structured(response: UpstreamResponse) -> dict[str, Any]:
    """The fields of an answer that was asked for by schema; raises `upstream_bad_response` when it is not JSON."""
    return {"output_format": "json_schema", "response_json": load_sound_json(response.output_text)}
