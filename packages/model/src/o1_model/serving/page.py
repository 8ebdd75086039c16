"""The page that searches: one file without anything from elsewhere, and the policy that keeps it so."""

from __future__ import annotations

import base64
import functools
import hashlib
import re
from importlib.resources import files


@functools.cache
def page(*, keys: bool) -> tuple[str, dict[str, str]]:
    """Return the page as HTML, and the headers that go with it; with `keys` it asks for one.

    Only the page's own script and style run, and it sends requests to its own server alone.
    """
    html = (files("o1_model.serving") / "page.html").read_text(encoding="utf-8")
    script, style = (_digest(html, tag) for tag in ("script", "style"))
    policy = {
        "default-src": "'none'",
        "script-src": script,
        "style-src": style,
        "connect-src": "'self'",
        "img-src": "data:",
        "base-uri": "'none'",
        "form-action": "'none'",
        "frame-ancestors": "'none'",
    }
    headers = {
        "Content-Security-Policy": "; ".join(f"{name} {value}" for name, value in policy.items()),
        "Referrer-Policy": "no-referrer",
        "X-Content-Type-Options": "nosniff",
        "Cache-Control": "no-cache",
    }
    return html.replace("<html ", f'<html data-keys="{"yes" if keys else "no"}" ', 1), headers


def _digest(html: str, tag: str) -> str:
    [content] = re.findall(rf"<{tag}>(.*?)</{tag}>", html, re.DOTALL)
    digest = base64.b64encode(hashlib.sha256(content.encode()).digest()).decode()
    return f"'sha256-{digest}'"
