"""The error codes: what each means on the wire, and in words.

They are stable: a caller's program may depend on them. docs/reference.md lists them from here.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class Failure:
    """What one error code means on the wire, and in words: `meaning` in English and `ko` in Korean.

    `told` is the Korean sentence that a native caller reads, behind a prefix that says what kind of error it is; the
    English one is the exception's own, which knows more. `retry_after` is in whole seconds. `docs/generate.py` makes
    the documents' table from these.
    """

    status: int
    origin: str
    meaning: str
    ko: str
    retryable: bool = False
    retry_after: int | None = None
    told: str = ""


FAILURES: Mapping[str, Failure] = {
    "bad_request": Failure(
        400,
        "client",
        "The request is not acceptable HTTP (414, 417 or 431 where those fit), or its body did not arrive within "
        "30 seconds (408).",
        "HTTP로 받아들일 수 없는 요청(경우에 따라 414, 417, 431)이거나, 본문이 30초 안에 오지 않음(408).",
        told="입력 데이터 오류: 처리할 수 없는 HTTP 요청입니다.",
    ),
    "websocket_unsupported": Failure(
        426,
        "client",
        "The request wants to become a WebSocket, which no route offers. Clients of OpenAI's then ask over HTTP.",
        "요청이 WebSocket으로 바꾸려 하지만 그런 경로가 없음. OpenAI 클라이언트는 이 응답을 받으면 HTTP로 요청함.",
        told="입력 데이터 오류: 이 서버는 WebSocket을 지원하지 않습니다.",
    ),
    "invalid_json": Failure(
        400,
        "client",
        "The body is not JSON in UTF-8.",
        "본문이 UTF-8 JSON이 아님.",
        told="입력 데이터 오류: 본문이 올바른 UTF-8 JSON이 아닙니다.",
    ),
    "validation_error": Failure(
        422,
        "client",
        "A field breaks a rule. `errors` names each such field.",
        "규칙을 어긴 필드가 있음. `errors`에 모두 표시.",
        told="입력 데이터 오류: 규칙에 맞지 않는 항목이 있습니다.",
    ),
    "api_key_required": Failure(
        401,
        "client",
        "The request has no API key of the caller's and does not ask for free mode.",
        "요청에 호출자의 API 키가 없고 무료 모드도 아님.",
        told="인증 오류: API 키가 필요합니다. X-OpenAI-Api-Key 헤더로 키를 보내거나 무료 모드(free_mode)로 요청하세요.",
    ),
    "api_key_rejected": Failure(
        401,
        "client",
        "The upstream refuses the caller's key, or refused it within the last 60 seconds.",
        "업스트림이 호출자의 키를 거절했거나, 최근 60초 안에 거절한 적이 있음.",
        told="인증 오류: AI 서비스가 API 키를 거절했습니다.",
    ),
    "unauthorized": Failure(
        401,
        "client",
        "The client's token is missing, unknown, expired or revoked.",
        "클라이언트의 토큰이 없거나, 모르는 토큰이거나, 만료 또는 폐기됨.",
        told="인증 오류: 유효한 토큰이 필요합니다. Authorization 헤더에 Bearer llms_… 형식으로 보내세요.",
    ),
    "forbidden": Failure(
        403,
        "client",
        "This needs an admin's token.",
        "관리자 토큰이 필요함.",
        told="권한 오류: 이 경로를 쓸 권한이 없습니다.",
    ),
    "model_not_allowed": Failure(
        403,
        "client",
        "The client may not use this model.",
        "이 클라이언트가 쓸 수 없는 모델.",
        told="권한 오류: 이 클라이언트는 이 모델을 쓸 수 없습니다.",
    ),
    "model_price_unknown": Failure(
        403,
        "client",
        "The client has a budget, and the price of the model is not known.",
        "예산이 있는 클라이언트인데 모델의 가격을 알 수 없음.",
        told="권한 오류: 모델의 가격을 알 수 없어 예산으로 처리할 수 없습니다.",
    ),
    "free_mode_not_allowed": Failure(
        403,
        "client",
        "The client has to bring its own API key.",
        "클라이언트가 자기 API 키를 보내야 함.",
        told="권한 오류: 이 클라이언트는 자기 API 키를 보내야 합니다.",
    ),
    "not_covered": Failure(
        400,
        "client",
        "The request asks for something whose cost or model cannot be known before, and the client has a budget or a "
        "model list. `param` names it.",
        "클라이언트에 예산이나 모델 목록이 있는데, 비용이나 모델을 미리 알 수 없는 항목을 요청함(`param`).",
        told="입력 데이터 오류: 이 클라이언트의 한도로는 처리할 수 없는 항목이 있습니다.",
    ),
    "session_busy": Failure(
        409,
        "client",
        "Another turn of this session goes on, and did not end within `MAX_QUEUE_SECONDS`.",
        "이 세션의 다른 턴이 진행 중이며 `MAX_QUEUE_SECONDS` 안에 끝나지 않음.",
        retryable=True,
        retry_after=1,
        told="채팅 서비스 오류: 이 세션의 다른 턴이 진행 중입니다. 잠시 후 다시 시도하세요.",
    ),
    "session_not_found": Failure(
        404,
        "client",
        "The caller has no session of this name. Another client's session is the same.",
        "이 이름의 세션이 호출자에게 없음. 다른 클라이언트의 세션도 마찬가지.",
        told="요청 경로 오류: 없는 세션입니다.",
    ),
    "turn_not_found": Failure(
        404,
        "client",
        "An interruption means a turn that neither goes on nor is the last one of its session. Nothing is cut.",
        "중단하려는 턴이 진행 중이지도, 세션의 마지막 턴도 아님. 아무것도 줄이지 않음.",
        told="요청 경로 오류: 진행 중이거나 마지막인 턴이 아닙니다.",
    ),
    "session_exists": Failure(
        409,
        "client",
        "An import names a session that is there already.",
        "이미 있는 세션의 이름으로 가져오기를 요청함.",
        told="채팅 서비스 오류: 같은 이름의 세션이 이미 있습니다.",
    ),
    "session_unreadable": Failure(
        500,
        "server",
        "What is stored of this session cannot be read: the key that sealed it is neither `SESSION_KEY` nor one of "
        "`SESSION_KEY_OLD`, or it is damaged. Other sessions are served.",
        "이 세션의 저장된 내용을 읽을 수 없음. 암호화한 키가 `SESSION_KEY`와 `SESSION_KEY_OLD`에 없거나 내용이 손상됨. "
        "다른 세션은 정상 처리됨.",
        told="채팅 서비스 오류: 이 세션의 저장된 내용을 읽을 수 없습니다. 운영자에게 문의하거나 새 세션을 시작하세요.",
    ),
    "turn_interrupted": Failure(
        409,
        "client",
        "The answer was cut, as its session was interrupted.",
        "세션을 중단하는 요청으로 응답이 끊김.",
        told="채팅 서비스 오류: 응답이 중단되었습니다.",
    ),
    "sign_in_limited": Failure(
        429,
        "client",
        "Too many tokens that open nothing were tried on the console's sign-in page from one network.",
        "한 네트워크에서 콘솔 로그인에 유효하지 않은 토큰을 너무 여러 번 사용함.",
        retryable=True,
        retry_after=60,
        told="사용 한도 오류: 로그인 시도가 너무 많습니다. 1분 뒤에 다시 시도하세요.",
    ),
    "csrf_failed": Failure(
        403,
        "client",
        "A request with the console's cookie does not carry the page's `X-CSRF-Token`, or a page of another site that "
        "`CORS_ORIGINS` does not name sent a write without a token.",
        "콘솔 쿠키를 쓰는 요청에 페이지의 `X-CSRF-Token`이 없거나, `CORS_ORIGINS`에 없는 다른 사이트의 페이지가 "
        "토큰 없이 쓰기 요청을 보냄.",
        told="권한 오류: 이 페이지에서 보낸 요청인지 확인할 수 없습니다. 페이지를 새로 고친 뒤 다시 시도하세요.",
    ),
    "rate_limited": Failure(
        429,
        "client",
        "The client made more requests in 60 seconds than it may.",
        "클라이언트가 60초 동안 허용된 요청 수를 넘음.",
        retryable=True,
        retry_after=1,
        told="사용 한도 오류: 1분 동안 허용된 요청 수를 넘었습니다. 잠시 후 다시 시도하세요.",
    ),
    "user_rate_limited": Failure(
        429,
        "client",
        "The request's end user (`user`) made more requests in 60 seconds than each user of this client may.",
        "요청의 최종 사용자(`user`)가 60초 동안 이 클라이언트의 사용자마다 허용된 요청 수를 넘음.",
        retryable=True,
        retry_after=1,
        told="사용 한도 오류: 이 사용자에게 1분 동안 허용된 요청 수를 넘었습니다. 잠시 후 다시 시도하세요.",
    ),
    "concurrency_limited": Failure(
        429,
        "client",
        "The client has more requests in flight than it may.",
        "클라이언트가 동시에 허용된 요청 수를 넘음.",
        retryable=True,
        retry_after=1,
        told="사용 한도 오류: 동시에 허용된 요청 수를 넘었습니다. 잠시 후 다시 시도하세요.",
    ),
    "budget_exceeded": Failure(
        429,
        "client",
        "The rest of the client's budget does not cover the highest possible cost of the request. `Retry-After` says "
        "when the budget renews.",
        "클라이언트의 남은 예산으로 요청의 최대 비용을 감당할 수 없음. `Retry-After`는 예산이 갱신되는 때.",
        retry_after=60,
        told="사용 한도 오류: 남은 예산으로 이 요청을 처리할 수 없습니다.",
    ),
    "user_budget_exceeded": Failure(
        429,
        "client",
        "The rest of the budget of the request's end user (`user`) does not cover the highest possible cost of the "
        "request. `Retry-After` says when the budget renews.",
        "요청의 최종 사용자(`user`)에게 남은 예산으로 요청의 최대 비용을 감당할 수 없음. "
        "`Retry-After`는 예산이 갱신되는 때.",
        retry_after=60,
        told="사용 한도 오류: 이 사용자에게 남은 예산으로 이 요청을 처리할 수 없습니다.",
    ),
    "store_unavailable": Failure(
        503,
        "server",
        "The database does not answer, so no request can be admitted.",
        "데이터베이스가 응답하지 않아 요청을 받아들일 수 없음.",
        retryable=True,
        retry_after=1,
        told="채팅 서비스 오류: 기록 저장소가 응답하지 않습니다. 잠시 후 다시 시도하세요.",
    ),
    "system_routes_private": Failure(
        403,
        "client",
        "A system route or `/metrics` was called from another machine or through a proxy.",
        "시스템 경로나 `/metrics`를 다른 장비에서 또는 프록시를 거쳐 호출함.",
        told="권한 오류: 시스템 경로는 서버와 같은 장비에서만 쓸 수 있습니다.",
    ),
    "not_found": Failure(
        404,
        "client",
        "There is no such route, or no such record.",
        "없는 경로이거나 없는 기록.",
        told="요청 경로 오류: 없는 주소이거나 없는 기록입니다.",
    ),
    "auth_mode_required": Failure(
        403,
        "client",
        "The request came through a proxy, and `AUTH_MODE` is not set: nobody has decided who may call.",
        "프록시를 거친 요청인데 `AUTH_MODE`가 설정되지 않음. 누가 호출할 수 있는지 정해지지 않은 상태.",
        told="권한 오류: 프록시를 거친 요청을 받으려면 서버에 AUTH_MODE를 설정해야 합니다.",
    ),
    "misdirected_request": Failure(
        421,
        "client",
        "In open mode: `Host` is neither a loopback name, an address nor a name in `ALLOWED_HOSTS`.",
        "토큰 없이 열린 모드에서 `Host`가 루프백 이름도, 주소도, `ALLOWED_HOSTS`의 이름도 아님.",
        told="권한 오류: 이 서버의 이름이 아닌 Host로 호출했습니다.",
    ),
    "method_not_allowed": Failure(
        405,
        "client",
        "The route does not have this method. `Allow` lists the methods it has.",
        "이 경로가 지원하지 않는 메서드. 지원하는 메서드는 `Allow`에 표시.",
        told="요청 경로 오류: 이 주소에서 지원하지 않는 메서드입니다.",
    ),
    "request_too_large": Failure(
        413,
        "client",
        "The body is larger than `MAX_REQUEST_BYTES`, as it came or decompressed, or it has more than 500,000 commas "
        "or 200,000 names.",
        "본문이 압축을 풀기 전이나 후에 `MAX_REQUEST_BYTES`보다 크거나, 쉼표가 500,000개 또는 이름이 200,000개를 넘음.",
        told="입력 데이터 오류: 요청 본문이 허용된 크기(MAX_REQUEST_BYTES)보다 큽니다.",
    ),
    "unsupported_media_type": Failure(
        415,
        "client",
        "The body is not `application/json` in UTF-8, or its `Content-Encoding` is not one of those that "
        "`Accept-Encoding` of the answer lists.",
        "본문이 UTF-8 `application/json`이 아니거나, 응답의 `Accept-Encoding`에 없는 방식으로 압축되어 있음.",
        told="입력 데이터 오류: 본문은 UTF-8 application/json이어야 합니다.",
    ),
    "client_closed_request": Failure(
        499,
        "client",
        "The caller left before the answer. This status appears in the log only.",
        "응답 전에 호출자가 연결을 끊음. 로그에만 남는 상태.",
        told="채팅 서비스 오류: 호출자가 연결을 끊었습니다.",
    ),
    "internal_error": Failure(
        500,
        "server",
        "The server has a bug. The log names its type and place.",
        "서버의 버그. 종류와 위치가 로그에 남음.",
        told="채팅 서비스 오류: 서버가 요청을 처리하지 못했습니다.",
    ),
    "not_ready": Failure(
        503,
        "server",
        "`/readyz`: the database cannot be written, or the local model does not answer yet.",
        "`/readyz`: 데이터베이스에 쓸 수 없거나 로컬 모델이 아직 응답하지 않음.",
        retryable=True,
        retry_after=1,
        told="채팅 서비스 오류: 서버가 아직 준비되지 않았습니다.",
    ),
    "server_busy": Failure(
        503,
        "server",
        "No slot became free within `MAX_QUEUE_SECONDS`, or there is no room for one more large body "
        "(`MAX_HELD_BYTES`).",
        "`MAX_QUEUE_SECONDS` 안에 빈 슬롯이 나지 않았거나, 큰 요청 본문을 더 받을 자리가 없음(`MAX_HELD_BYTES`).",
        retryable=True,
        retry_after=1,
        told="채팅 서비스 오류: 서버가 바쁩니다. 잠시 후 다시 시도하세요.",
    ),
    "server_shutting_down": Failure(
        503,
        "server",
        "The server was stopped before the answer was complete. `/readyz`: the server drains before a stop.",
        "응답이 끝나기 전에 서버가 중지됨. `/readyz`: 서버가 종료를 준비하는 중.",
        retryable=True,
        retry_after=1,
        told="채팅 서비스 오류: 서버가 종료되는 중입니다.",
    ),
    "no_api_key_available": Failure(
        503,
        "server",
        "The request asks for free mode, but the server has no API key.",
        "무료 모드 요청이지만 서버에 API 키가 없음.",
        retry_after=60,
        told="시스템 설정 오류: 서버에 설정된 API 키가 없습니다.",
    ),
    "server_credentials_rejected": Failure(
        503,
        "server",
        "The upstream refuses the server's key.",
        "업스트림이 서버의 키를 거절함.",
        retry_after=60,
        told="시스템 설정 오류: AI 서비스가 서버의 API 키를 거절했습니다.",
    ),
    "server_quota_exhausted": Failure(
        503,
        "server",
        "The quota of the server's key is used up.",
        "서버 키의 할당량을 모두 씀.",
        retry_after=60,
        told="시스템 설정 오류: 서버 API 키의 사용량을 모두 썼습니다.",
    ),
    "upstream_credentials_exhausted": Failure(
        502,
        "server",
        "With several upstreams: every key of the server's that may answer is refused or has used up its quota.",
        "여러 업스트림 사용 시: 응답할 수 있는 서버의 키가 모두 거절되었거나 할당량을 다 씀.",
        told="시스템 설정 오류: AI 서비스들이 서버의 API 키를 모두 거절했거나 할당량이 없습니다.",
    ),
    "insufficient_quota": Failure(
        429,
        "client",
        "The quota of the caller's key is used up.",
        "호출자 키의 할당량을 모두 씀.",
        retry_after=60,
        told="사용 한도 오류: API 키의 사용량을 모두 썼습니다.",
    ),
    "upstream_rate_limited": Failure(
        429,
        "upstream",
        "The upstream limits the rate. `Retry-After` is the upstream's value, limited to 1 to 120.",
        "업스트림의 요청 속도 제한. `Retry-After`는 업스트림이 준 값(1~120).",
        retryable=True,
        retry_after=1,
        told="AI 서비스 연결 오류: AI 서비스가 요청 속도를 제한하고 있습니다. 잠시 후 다시 시도하세요.",
    ),
    "upstream_rejected_request": Failure(
        400,
        "client",
        "The upstream refuses the request. The status is the upstream's 400, 404, 413 or 422, and 400 for any other.",
        "업스트림이 요청을 거절함. 상태는 업스트림이 준 400, 404, 413, 422이고, 그 밖에는 400.",
        told="AI 서비스 연결 오류: AI 서비스가 요청을 거절했습니다.",
    ),
    "upstream_forbidden": Failure(
        403,
        "client",
        "The upstream does not permit this request (403): a flagged prompt, a model or a region. The key is not in "
        "doubt, and no other key is tried.",
        "업스트림이 이 요청을 허용하지 않음(403): 걸러진 프롬프트, 모델, 지역 등. 키의 문제가 아니며 다른 키로 다시 "
        "보내지 않음.",
        told="AI 서비스 연결 오류: AI 서비스가 이 요청을 허용하지 않습니다.",
    ),
    "max_tokens_too_small": Failure(
        422,
        "client",
        "The model used up `max_tokens` before it wrote any text, as reasoning models do. The tokens are charged.",
        "추론 모델처럼 텍스트를 쓰기 전에 `max_tokens`를 모두 써 버림. 쓴 토큰의 비용은 계산됩니다.",
        told="입력 데이터 오류: max_tokens가 작아 답변을 쓰기 전에 모두 썼습니다.",
    ),
    "response_not_found": Failure(
        404,
        "client",
        "The request goes on with a response or conversation that this client did not make with the server's key, "
        "or whose upstream is no longer there.",
        "이 클라이언트가 서버 키로 만들지 않았거나 업스트림이 더는 없는 응답이나 대화를 이어 가려 함.",
        told="입력 데이터 오류: 이 클라이언트에 그런 응답이나 대화가 없습니다.",
    ),
    "character_not_found": Failure(
        404,
        "client",
        "There is no character of this name, or not in this version, that the client sees.",
        "클라이언트가 볼 수 있는 캐릭터 중에 그런 이름이나 버전이 없음.",
        told="입력 데이터 오류: 그런 이름이나 버전의 캐릭터가 없습니다.",
    ),
    "model_not_found": Failure(
        404,
        "client",
        "The upstream does not know the model. The status is the upstream's, as for `upstream_rejected_request`.",
        "업스트림이 모르는 모델. 상태는 `upstream_rejected_request`와 같은 방식.",
        told="AI 서비스 연결 오류: AI 서비스에 없는 모델입니다.",
    ),
    "upstream_error": Failure(
        502,
        "upstream",
        "The upstream answered with a server error, after retries as well.",
        "재시도한 뒤에도 업스트림이 서버 오류로 응답함.",
        retryable=True,
        told="AI 서비스 연결 오류: AI 서비스에서 오류가 발생했습니다.",
    ),
    "upstream_failed": Failure(
        502,
        "upstream",
        "The upstream gave up on the answer (status `failed`).",
        "업스트림이 답변을 끝내지 못함(상태 `failed`).",
        retryable=True,
        told="AI 서비스 연결 오류: AI 서비스가 답변을 끝내지 못했습니다.",
    ),
    "upstream_bad_response": Failure(
        502,
        "upstream",
        "The upstream's answer cannot be used: bad JSON, no text, not the JSON that `response_schema` asks for, a "
        "redirect, or too large.",
        "업스트림의 응답을 쓸 수 없음: 깨진 JSON, 빈 텍스트, `response_schema`로 요청한 JSON이 아닌 답변, 리디렉션, "
        "너무 큰 응답.",
        retryable=True,
        told="AI 서비스 연결 오류: AI 서비스의 응답을 이해할 수 없습니다.",
    ),
    "upstream_connection_error": Failure(
        502,
        "upstream",
        "The upstream could not be reached, or the connection broke.",
        "업스트림에 연결하지 못했거나 연결이 끊김.",
        retryable=True,
        told="AI 서비스 연결 오류: AI 서비스에 연결하지 못했거나 연결이 끊겼습니다.",
    ),
    "upstream_unavailable": Failure(
        503,
        "upstream",
        "The upstream is overloaded or still starting (503 or 529), after retries as well.",
        "재시도한 뒤에도 업스트림이 과부하 상태이거나 시작하는 중(503 또는 529).",
        retryable=True,
        retry_after=1,
        told="AI 서비스 연결 오류: AI 서비스가 과부하 상태이거나 시작하는 중입니다. 잠시 후 다시 시도하세요.",
    ),
    "upstream_timeout": Failure(
        504,
        "upstream",
        "There was no complete answer within `REQUEST_TIMEOUT`, or a stream was silent for `STREAM_IDLE_SECONDS` or "
        "lasted `STREAM_MAX_SECONDS`.",
        "`REQUEST_TIMEOUT` 안에 응답이 끝나지 않았거나, 스트림이 `STREAM_IDLE_SECONDS` 동안 조용했거나 "
        "`STREAM_MAX_SECONDS`를 넘김.",
        retryable=True,
        told="AI 서비스 연결 오류: AI 서비스가 제시간에 응답하지 않았습니다.",
    ),
}
