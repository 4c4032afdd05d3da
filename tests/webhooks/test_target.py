"""Which URLs of receivers are taken."""

from __future__ import annotations

import pytest

from pushq.errors import UrlRefused
from pushq.webhooks.target import Target, target_of


@pytest.mark.parametrize(
    ("url", "target", "authority"),
    [
        ("https://example.com", Target("https", "example.com", 443, "/"), "example.com"),
        ("http://example.com:8080/a?b=c%20d", Target("http", "example.com", 8080, "/a?b=c%20d"), "example.com:8080"),
        ("HTTPS://Example.COM:443/A#part", Target("https", "example.com", 443, "/A"), "example.com"),
        ("http://[::1]:8080/", Target("http", "::1", 8080, "/"), "[::1]:8080"),
        ("http://a_b.example./?", Target("http", "a_b.example.", 80, "/"), "a_b.example."),
    ],
)
def test_a_url_is_taken_apart(url: str, target: Target, authority: str) -> None:
    assert target_of(url) == target
    assert target.authority == authority


@pytest.mark.parametrize(
    ("url", "why"),
    [
        ("", "a character"),
        ("example.com/hook", "http:// or https://"),
        ("ftp://example.com", "http:// or https://"),
        ("file:///etc/passwd", "http:// or https://"),
        ("gopher://127.0.0.1:70/_", "http:// or https://"),
        ("http://", "no host"),
        ("http:///path", "no host"),
        ("http://user:SECRET@example.com/", "a user or a password"),
        ("http://example.com@127.0.0.1/", "a user or a password"),
        ("http://example.com\\@127.0.0.1/", "a backslash"),
        ("http://example.com/\r\nX: y", "a character"),
        ("http://exa mple.com/", "a character"),
        ("http://①②⑦.⓪.⓪.①/", "beyond ASCII"),
        ("http://bücher.example/", "xn--"),
        ("http://%31%32%37.0.0.1/", "other than letters"),
        ("http://[::1", "cannot be read"),
        ("http://[::g]/", "cannot be read"),
        ("http://example.com:99999/", "cannot be read"),
        ("http://example.com:SECRET/", "cannot be read"),
        ("http://example.com:0/", "port 0"),
        ("http://" + "a" * 254 + "/", "no host, or a host"),
        ("http://a..b/", "part that is empty"),
        ("http://.example.com/", "part that is empty"),
        ("http://example.com../", "part that is empty"),
        ("http://./", "part that is empty"),
        ("http://" + "a" * 64 + ".example/", "longer than 63 characters"),
        ("http://example.com/" + "a" * 2000, "2,019 characters"),
    ],
)
def test_any_other_url_is_refused_by_name_and_not_shown(url: str, why: str) -> None:
    with pytest.raises(UrlRefused, match=why) as refused:
        target_of(url)

    assert "SECRET" not in str(refused.value)
