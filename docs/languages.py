"""The words of the generated pages that are not in the code, in English and in Korean."""

from __future__ import annotations

import enum
from collections.abc import Mapping

from app.web.korean import SUMMARIES

Cells = tuple[str, ...]


class Language(enum.IntEnum):
    """The place of a language's words in each pair."""

    ENGLISH = 0
    KOREAN = 1


Words = tuple[str, str]
"""The same in English and in Korean."""

SETTING_COLUMNS = (("name", "default", "accepts", "meaning"), ("이름", "기본값", "허용하는 값", "뜻"))
ERROR_COLUMNS = (
    ("code", "status", "origin", "retryable", "`Retry-After`", "meaning"),
    ("코드", "상태", "원인", "재시도", "`Retry-After`", "뜻"),
)
ROUTE_COLUMNS = (("method and path", "who may call", "summary"), ("메서드와 경로", "호출할 수 있는 사람", "내용"))
SECRET = ("**Secret.**", "**비밀.**")
WHETHER: Mapping[bool, Words] = {True: ("yes", "예"), False: ("no", "아니요")}
WHO: Mapping[str, Words] = {
    "public": ("everybody", "누구나"),
    "client": ("clients", "클라이언트"),
    "admin": ("admins", "관리자"),
    "operator": ("operators", "운영자"),
}

SECTIONS = {
    "server_host": ("Process", "프로세스"),
    "openai_api_key": ("Upstream", "업스트림"),
    "log_level": ("Log", "로그"),
    "default_model": ("Prompt and defaults of a request", "프롬프트와 요청의 기본값"),
    "ai_notice": ("AI notice", "AI 고지"),
    "request_timeout": ("Limits", "제한"),
    "cache_enabled": ("Response cache", "응답 캐시"),
    "memory_url": ("Memory hook", "기억 훅"),
    "memory_log_seconds": ("Memory", "메모리"),
    "auth_mode": ("Access and ledger", "접근 제어와 사용 기록"),
}
"""The first setting of each section, and the section's heading."""

ACCEPTED_KO = {
    r"a whole number from (\S+) to (\S+)": r"\1~\2의 정수",
    r"a number from (\S+) to (\S+)": r"\1~\2의 수",
    r"`true` or `false`": "`true` 또는 `false`",
    r"one of (.+)": r"\1 중 하나",
    r"1 to 8000 printable ASCII characters without spaces": "공백이 없는 인쇄 가능한 ASCII 문자 1~8000자",
    r"32 to 256 random printable ASCII characters without spaces and commas": (
        "공백과 쉼표가 없는 임의의 인쇄 가능한 ASCII 문자 32~256자"
    ),
    r"keys separated by commas, each 32 to 256 random printable ASCII characters without spaces and commas": (
        "쉼표로 구분한 키. 키마다 공백과 쉼표가 없는 임의의 인쇄 가능한 ASCII 문자 32~256자"
    ),
    r"8 to 256 printable ASCII characters without spaces": "공백이 없는 인쇄 가능한 ASCII 문자 8~256자",
    r"printable ASCII characters without spaces": "공백이 없는 인쇄 가능한 ASCII 문자",
    r"an http\(s\) URL without credentials, query or fragment": "인증 정보, 쿼리, 프래그먼트가 없는 http(s) URL",
    r"an http\(s\) URL without credentials or fragment": "인증 정보와 프래그먼트가 없는 http(s) URL",
    r"`http://\[user:password@\]host:port` or `direct`": "`http://[user:password@]host:port` 또는 `direct`",
    r"a file with certificates in PEM": "인증서(PEM)가 든 파일",
    r"origins such as https://app.example or app://obsidian.md, without wildcards": (
        "https://app.example, app://obsidian.md 같은 출처. 와일드카드 없음"
    ),
    r"`sqlite:///PATH` or `postgresql://…`": "`sqlite:///경로` 또는 `postgresql://…`",
    r"host names without scheme and port": "스킴과 포트가 없는 호스트 이름",
    r"addresses or networks such as 10\.0\.0\.0/8, or \*": "10.0.0.0/8 같은 주소나 네트워크, 또는 `*`",
    r"any text": "모든 텍스트",
}
"""What parsers accept, as patterns of `accepted`, and the same in Korean."""

ROUTES_KO = SUMMARIES | {
    "api-docs.openapi_json": "OpenAPI 3.1 명세",
    "docs.page": "API 문서 페이지(Swagger UI)",
    "front.front": "첫 페이지. HTML을 요청하지 않으면 JSON",
    "docs.page_with_slash": "API 문서 페이지로 이동",
    "docs.icon": "API 문서 페이지의 아이콘",
    "docs.korean": "API 문서 페이지를 위한 한국어 명세",
    "docs.asset": "API 문서 페이지의 파일",
}

PAGES_EN = {
    "api-docs.openapi_json": "The OpenAPI 3.1 specification",
    "docs.page": "The API's documentation page (Swagger UI)",
    "front.front": "The front page; JSON for programs, which do not ask for HTML",
    "docs.page_with_slash": "Leads to the documentation page",
    "docs.icon": "The icon of the documentation page",
    "docs.korean": "The specification in Korean, for the documentation page",
    "docs.asset": "The files of the documentation page",
}
"""The routes that are not in the specification, so that their views have no summary for readers."""

ENGLISH_PAGE = """\
# Reference

All settings, error codes and routes. `make docs` writes this page from the code, so do not edit it.

[한국어](reference.ko.md)

## Settings

Settings come from environment variables or from a file `.env` in the server's directory. An environment variable wins
over `.env`. An empty value means the default, except for `LOG_FILE`. When a value cannot be used, the server does not
start and prints one line that names the variable. Keep the settings marked **secret** out of logs and repositories.

{settings}

## Error codes

Every answer with a status of 400 or above is a problem document (`application/problem+json`, RFC 9457). Below `/v1/` it
is an error in OpenAI's shape, below `/v1/messages` in Anthropic's. `code` is stable and has the same values in all.
`origin` tells which side failed. `retryable` tells whether the same request may succeed later. Every 429 and 503
carries `Retry-After` in seconds; the table has its default, and an answer has a better value where the server or the
upstream knows one. [The API document](api/README.md#errors) explains the members.

{errors}

## Routes

The second column tells who may call a route:

- *everybody*: no token is needed.
- *clients*: with `AUTH_MODE=token`, every client with a valid token. In open mode, everybody.
- *admins*: with `AUTH_MODE=token`, clients with an admin's token. In open mode, callers on the same machine whose
  request did not pass a proxy, or everybody when `SYSTEM_API_PUBLIC=true`.
- *operators*: as admins, but never everybody, whatever `SYSTEM_API_PUBLIC` says.

{routes}
"""

KOREAN_PAGE = """\
# 레퍼런스

모든 설정, 오류 코드, 경로입니다. `make docs`가 코드에서 만드는 문서이므로 직접 고치지 마세요.

[English](reference.md)

## 설정

환경 변수나 서버 디렉터리의 `.env` 파일로 지정합니다. 둘 다 있으면 환경 변수가 우선합니다. 빈 값은 기본값을 뜻하지만
`LOG_FILE`만은 예외입니다. 값이 잘못되면 서버는 변수 이름을 한 줄로 알리고 시작하지 않습니다. **비밀**로 표시한 값은
로그나 저장소에 남기지 마세요.

{settings}

## 오류 코드

상태가 400 이상인 응답은 모두 problem 문서(`application/problem+json`, RFC 9457)이고, `/v1/` 아래에서는 OpenAI
형식, `/v1/messages` 아래에서는 Anthropic 형식의 오류입니다. `code` 값은 어디서나 같으며 바뀌지 않습니다.
`origin`은 어느 쪽에서 실패했는지, `retryable`은
같은 요청이 나중에 성공할 수 있는지를 나타냅니다. 모든 429와 503에는 초 단위의 `Retry-After`가 있습니다. 표의 값은
기본값이며, 서버나 업스트림이 더 정확한 값을 알면 그 값을 보냅니다. 각 필드의 뜻은
[API 문서](api/README.ko.md#오류)에 있습니다.

{errors}

## 경로

호출할 수 있는 사람은 다음과 같이 나뉩니다.

- *누구나*: 토큰이 필요 없습니다.
- *클라이언트*: `AUTH_MODE=token`이면 유효한 토큰을 가진 모든 클라이언트, 토큰 없이 열린 모드에서는 누구나.
- *관리자*: `AUTH_MODE=token`이면 관리자 토큰을 가진 클라이언트. 열린 모드에서는 프록시를 거치지 않은 같은 장비의
  호출자이며, `SYSTEM_API_PUBLIC=true`이면 누구나.
- *운영자*: 관리자와 같지만 `SYSTEM_API_PUBLIC`과 관계없이 누구나 쓸 수 있게 되지는 않습니다.

{routes}
"""

PAGE = (ENGLISH_PAGE, KOREAN_PAGE)
