# SPDX-License-Identifier: Apache-2.0
"""What serving engines say of a text, made from a model's own log-softmax in plain PyTorch, and a server that says it."""

import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import torch


def log_softmax(model: Any, ids: list[int]) -> torch.Tensor:
    """`(L, V)`: what follows each token."""
    with torch.no_grad():
        return model(input_ids=torch.tensor([ids])).logits[0].float().log_softmax(-1)


def top(values: torch.Tensor, k: int) -> list[tuple[int, float]]:
    found = values.topk(k)
    return list(zip(found.indices.tolist(), found.values.tolist(), strict=True))


def completion(model: Any, tokenizer: Any, ids: list[int], k: int, write: Callable | None = None) -> dict[str, Any]:
    """A completion with echo; `write` says how a token is written."""
    write = write or (lambda index: tokenizer.decode([index]))
    said = log_softmax(model, ids)
    values = [None, *(said[i, ids[i + 1]].item() for i in range(len(ids) - 1))]
    tops = [None, *({write(a): b for a, b in top(said[i], k)} for i in range(len(ids) - 1))]
    text = [write(one) for one in ids]
    offsets = [sum(map(len, text[:i])) for i in range(len(text))]
    logprobs = {"tokens": text, "token_logprobs": values, "top_logprobs": tops if k else None, "text_offset": offsets}
    return {"object": "text_completion", "model": "stub", "choices": [{"index": 0, "logprobs": logprobs}]}


def prompt_logprobs(model: Any, tokenizer: Any, ids: list[int], k: int) -> dict[str, Any]:
    """vLLM's: the token that stands there first, then the most probable."""
    said = log_softmax(model, ids)
    found: list[Any] = [None]
    for i in range(len(ids) - 1):
        ranks = said[i].argsort(descending=True).tolist()
        named = dict.fromkeys([ids[i + 1], *ranks[:k]])
        found.append(
            {
                str(a): {
                    "logprob": said[i, a].item(),
                    "rank": ranks.index(a) + 1,
                    "decoded_token": tokenizer.decode([a]),
                }
                for a in named
            }
        )
    return {"object": "text_completion", "model": "stub", "choices": [{"index": 0, "prompt_logprobs": found}]}


def chat(model: Any, tokenizer: Any, ids: list[int], places: list[int], k: int) -> dict[str, Any]:
    """A chat's response, of which the answer's tokens are there: those at `places`."""
    said = log_softmax(model, ids)

    def written(index: int, value: float) -> dict[str, Any]:
        text = tokenizer.decode([index])
        return {"token": text, "bytes": list(text.encode()), "logprob": value}

    content = [
        {**written(ids[i], said[i - 1, ids[i]].item()), "top_logprobs": [written(*one) for one in top(said[i - 1], k)]}
        for i in places
    ]
    return {"object": "chat.completion", "model": "stub", "choices": [{"index": 0, "logprobs": {"content": content}}]}


def columns(model: Any, ids: list[int], k: int) -> dict[str, Any]:
    named = [top(one, k) for one in log_softmax(model, ids)]
    return {
        "input_ids": ids,
        "top_ids": [[a for a, _ in one] for one in named],
        "top_log_probs": [[b for _, b in one] for one in named],
    }


@contextmanager
def serving(answer: Callable[[dict[str, Any], int], tuple[int, Any]]) -> Iterator[tuple[str, list[dict[str, Any]]]]:
    """Runs a server on localhost; `answer` takes a request's body and its number, and gives a status and what to send."""
    asked: list[dict[str, Any]] = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            asked.append({**body, "path": self.path, "authorization": self.headers.get("Authorization")})
            status, found = answer(body, len(asked) - 1)
            content = found if isinstance(found, bytes) else json.dumps(found).encode()
            try:
                self.send_response(status)
                self.send_header("Content-Length", str(len(content)))
                self.end_headers()
                self.wfile.write(content)
            except OSError:
                pass  # the client has given up

        def log_message(self, *args: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}/v1", asked
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
