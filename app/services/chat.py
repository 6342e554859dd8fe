"""ChatService: one chat turn, from what the application knows to upstream's answer."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from app.call import Call
from app.clients.openai_client import OpenAIClient
from app.clients.responses_api import parse_response, request_body
from app.config import Config
from app.errors import ValidationException
from app.models import ChatRequest, ChatResponse, Message, UpstreamResponse
from app.services import prompt
from app.services.cache import NullCache, ResponseCache, cache_key
from app.services.rules import TURN_FORMS, broken_rules


class ChatService:
    """Validates, assembles, calls, answers. Its collaborators come by constructor; plain Python needs none of them."""

    def __init__(
        self,
        openai_client: OpenAIClient | None = None,
        config: Config | None = None,
        cache: ResponseCache | NullCache | None = None,
    ) -> None:
        self._config = config or Config.from_env()
        self.openai_client = openai_client or OpenAIClient(self._config)
        self._cache = cache or NullCache()
        self._headings = prompt.Headings(
            role=self._config.prompt_heading_role,
            memory=self._config.prompt_heading_memory,
            instructions=self._config.prompt_heading_instructions,
        )

    def process_chat_request(
        self, request: ChatRequest, call: Call | None = None, *, use_cache: bool = True
    ) -> ChatResponse:
        """Answer one chat turn.

        Raises ValidationException when the request breaks a rule, ConfigurationException when no key may pay,
        OpenAIClientException when upstream fails, ChatServiceException when the server is busy.
        """
        call = call or Call(self._config.request_timeout)
        self._validate_request(request)
        system = self._create_system_message(request)
        history = self._format_conversation_history(request.conversation_history or [])
        user = self._create_user_message(request.user_message)
        generation = {
            "messages": [system, *history, user],
            "model": request.model or self._config.default_model,
            "instructions": request.instructions or "",
            "max_tokens": self._config.default_max_tokens if request.max_tokens is None else request.max_tokens,
            "temperature": self._config.default_temperature if request.temperature is None else request.temperature,
        }
        cache = self._cache if use_cache else NullCache()
        response, source, cached = self._generate(request, generation, call, cache)
        return ChatResponse.from_openai_response(
            response,
            session_id=request.session_id or "",
            response_time=round(call.elapsed_seconds, 6),
            api_key_source=source,
            request_id=call.request_id or None,
            instructions=request.instructions or None,
            cached=cached,
            model=generation["model"],
            temperature=generation["temperature"],
        )

    def _generate(
        self, request: ChatRequest, generation: dict[str, Any], call: Call, cache: ResponseCache | NullCache
    ) -> tuple[UpstreamResponse, str, bool]:
        """The answer, whose key paid for it, and whether it came from the cache."""
        api_key, free_mode = request.openai_api_key, bool(request.free_mode)
        keys = self.openai_client.keys
        payer = keys.select(api_key, free_mode)
        body = request_body(**generation)
        fetched: list[tuple[UpstreamResponse, str]] = []

        def fetch() -> tuple[bytes, bytes]:
            response, _, source = self.openai_client.generate_response(
                **generation, api_key=api_key, free_mode=free_mode, call=call
            )
            fetched.append((response, source))
            return cache_key(keys.digest(keys.payer(source, api_key)), body), response.raw

        raw, cached = cache.get_or_fetch(cache_key(keys.digest(payer.secret), body), call, fetch)
        if cached:
            return parse_response(raw), payer.source, True
        return *fetched[0], False

    def _validate_request(self, request: ChatRequest) -> None:
        """Check every rule of the chat request; raises one ValidationException that names each broken one."""
        errors = broken_rules(request)
        if errors:
            field = next(iter(errors))
            raise ValidationException(f"These fields break a rule: {', '.join(errors)}", field, errors=errors)

    def _create_system_message(self, request: ChatRequest) -> Message:
        given = request.system_message or ""
        text = prompt.system_text(
            given if given.strip() else self._config.default_system_message,
            role=request.role or "",
            memories=request.memory_context or (),
            instructions=request.instructions or "",
            headings=self._headings,
        )
        return {"role": "system", "content": text}

    def _format_conversation_history(self, history: Sequence[str | Message]) -> list[Message]:
        turns = [prompt.parse_turn(entry) for entry in history]
        if None in turns:
            index = turns.index(None)
            raise ValidationException(TURN_FORMS, f"conversation_history[{index}]")
        return [turn for turn in turns if turn]

    def _create_user_message(self, user_message: str) -> Message:
        return {"role": "user", "content": user_message}
