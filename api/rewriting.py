"""Questions rewritten for the search by a chat model of the proxy."""

from api.observation import timed
from api.proxy import Proxy, garbage
from api.settings import RewriteSettings

INSTRUCTION = (
    "Rewrite the user's message as one query for a search engine. Keep names, numbers and the language of the message; "
    "leave out greetings and whatever says nothing of the subject. Answer with the query alone."
)
MAX_TOKENS = 256
MAX_CHARACTERS = 4_000


@timed("rewrite")
async def rewrite(proxy: Proxy, settings: RewriteSettings, *, model: str, question: str) -> str:
    """A question as the model would ask it.

    Raises:
        InvalidRequest: the proxy has no such model, or it refuses the question.
        ModelUnavailable: it cannot be reached, keeps failing, takes too long, or answers with something else.
    """
    body = {
        "model": model,
        "messages": [{"role": "system", "content": INSTRUCTION}, {"role": "user", "content": question}],
        "temperature": 0,
        "max_tokens": MAX_TOKENS,
    }
    answer = await proxy.post(
        "/chat/completions", body, timeout_seconds=settings.timeout_seconds, max_attempts=settings.max_attempts
    )
    try:
        text = answer["choices"][0]["message"]["content"].replace("\x00", "").strip()
    except (KeyError, IndexError, TypeError, AttributeError) as error:
        raise garbage(model) from error
    if not text:
        raise garbage(model)
    return text[:MAX_CHARACTERS]
