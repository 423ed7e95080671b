import ast
import ipaddress
import pathlib
import re
import sysconfig
import time

import pytest
from datatrove.data import Document
from datatrove.pipeline.formatters import PIIFormatter
from hypothesis import given, settings
from hypothesis import strategies as st

from data_pipeline.cleaning.pii import ReplacePII, ipv4, replace_pii
from data_pipeline.config.rewriting import PII

# What must go, and what must stay, in the places where both are met.
PERSONAL = [
    "write to {john.doe@acme.com} today",
    "Mail: {j_o-h+n%news@sub.mail-host.co.uk}.",
    "<{J.DOE@ACME.ORG}>",
    "mailto:{ann@uni-bonn.de}?subject=x",
    "# Author: Ann Lee <{ann@lee.name.com}>",
    "__author__ = '{me@my.org}'",
    "email={ann@site.io};",
    "{müller@bücher.de} or {иван@почта.com}",
    "({a1@b2.fr}, {x@y.net})",
    "From: {someone@gmail.com}\nTo: {someone.else@gmail.com}",
    "host {93.184.216.34} is up",
    "http://{93.184.216.34}/index.html and http://{185.60.216.35}:8080",
    "user@{151.101.1.69} logged in from {203.10.5.99}.",
    "listen {198.41.0.4}:53; server={192.33.4.12}, [{199.7.91.13}]",
    "'{128.63.2.53}' and \"{192.112.36.4}\"",
    "{64.233.160.0}-{64.233.191.255}",
    "at {2606:2800:220:1:248:1893:25c8:1946}, [{2a00:1450:4001:81b::200e}]:443",
    "{2001:4860:4860::8888}",
]
HARMLESS = [
    "y = a@b.T + x@w.mT - p@q.conj() @ r",
    "C = A@B.com(1) ; D = a@np.array(x) ; z = w@data.name",
    "npm install left-pad@1.3.0 react@next.js icon@2x.png",
    "git clone git@github.com:user/repo.git && ssh://git@gitlab.com/a/b",
    "scp file me@host.company.com:src/repo/",
    "@pytest.mark.slow\n@app.route('/x')\ndef f(): pass",
    "https://user:password@host.com/path",
    r"\makeatletter \pgf@sys.com \@ifnextchar\foo@bar.de \@",
    "you@example.com, b@sub.example.org, root@localhost.localdomain, x@machine.local, y@some.test",
    "12345+octocat@users.noreply.github.com",
    "foo@bar.baz, a@b.dt, module@file.py, @user, user@, a @ b.com, x@@y.com",
    "version 151.101.1.69, v93.184.216.34, Release: 91.45.124.200",
    "pkg==93.184.216.34, pkg>=93.184.216.34, lib-93.184.216.34.tar.gz, lib_93.184.216.34",
    "1.2.3.4, 10.4.0.1, 3.11.2.0 and 4.18.0.305 and 300.1.2.3",
    "127.0.0.1 0.0.0.0 255.255.255.255 10.0.0.1 192.168.1.254 172.16.99.1 169.254.1.1 224.0.0.251",
    "192.0.2.55 198.51.100.77 203.0.113.99",
    "OID 1.3.6.1.4.1.311.21.20, section 12.34.56.78, §41.42.43.44",
    "93.184.216.34.in-addr.arpa, 93.184.216.0/24, 1.93.184.216.34",
    "x[2000::2], a[2001:3000:4], std::beef::cafe, 12:34:56, 2021:10:11",
    "::1, fe80::1, fd00::1, 2001:db8::dead:beef",
    "00:1a:2b:3c:4d:5e 2b:3c:4d:5e:6f:70:81:92",
]


@pytest.mark.parametrize("marked", PERSONAL)
def test_personal_addresses_are_replaced_and_nothing_around_them(marked):
    addresses = re.findall(r"\{(.*?)\}", marked)
    after, counts = replace_pii(re.sub(r"[{}]", "", marked))
    around = re.split(r"\{.*?\}", marked)
    found = re.fullmatch("(.*?)".join(map(re.escape, around)), after, re.DOTALL)
    assert found is not None, after
    assert sum(counts.values()) == len(addresses)
    for new in found.groups():
        assert new.endswith("@example.com") or not ipaddress.ip_address(new).is_global


@pytest.mark.parametrize("text", HARMLESS)
def test_what_only_looks_like_an_address_stays(text):
    assert replace_pii(text) == (text, {})


def test_we_spare_what_datatrove_damages_and_miss_nothing_it_finds():
    """datatrove's step (FineWeb's) on the same cases: it finds no e-mail or IPv4 address that we miss."""
    stock = PIIFormatter()
    assert sum(stock.format(text) != text for text in HARMLESS) >= 10
    for marked in PERSONAL:
        text = re.sub(r"[{}]", "", marked)
        if stock.format(text) != text:
            assert replace_pii(text)[0] != text


def test_one_address_has_one_replacement_in_a_document():
    mails = "A: ann@acme.com to bob@acme.com. Bob@ACME.com to ann@acme.com; "
    text = mails + "93.184.216.34, 151.101.1.69, 93.184.216.34"
    after, counts = replace_pii(text)
    assert after == (
        "A: user1@example.com to user2@example.com. user2@example.com to user1@example.com; "
        "192.0.2.1, 192.0.2.2, 192.0.2.1"
    )
    assert counts == {"emails": 4, "ipv4": 3}
    # what stands there already is nobody else's
    taken = "user1@example.com 192.0.2.1 ann@acme.com 93.184.216.34"
    assert replace_pii(taken)[0] == "user1@example.com 192.0.2.1 user2@example.com 192.0.2.2"


def test_there_are_enough_replacements():
    assert len({ipv4(number) for number in range(1, 5_000)}) == 4_999
    assert not any(ipaddress.ip_address(ipv4(number)).is_global for number in range(1, 5_000))


@given(st.text(alphabet="ab.@:/1239-_ \n'<>[]", max_size=80))
@settings(max_examples=500, deadline=None)
def test_replacing_twice_changes_nothing_more(text):
    once, _ = replace_pii(text, secrets=True)
    assert replace_pii(once, secrets=True) == (once, {})


@given(st.ip_addresses(), st.sampled_from(["at {} now", "[{}]", "'{}'", "({})"]))
@settings(max_examples=300, deadline=None)
def test_no_public_address_survives_and_no_other_changes(address, place):
    text = place.format(address)
    after, _ = replace_pii(text)
    public = address.is_global and not address.is_multicast
    if address.version == 4 and max(address.packed) < 32:
        public = False  # taken for a version number
    if address.version == 6 and (
        not 0x20 <= address.packed[0] <= 0x3F or len(re.findall(r"\w+", str(address))) < 3
    ):
        public = False
    assert (str(address) not in after) == public


SECRETS = {
    "aws_key": "AKIA" + "Q3EGRTUV7XYZ2345",
    "github_token": "ghp_" + "a1B2c3D4e5F6g7H8i9J0k1L2m3N4o5P6q7R8",
    "gitlab_token": "glpat-" + "x1y2z3x1y2z3x1y2z3x1",
    "slack_token": "xoxb-" + "123456789012-abcdefABCDEF",
    "google_key": "AIza" + "SyA1b2C3d4E5f6G7h8I9j0K1l2M3n4O5p6Q",
    "stripe_key": "sk_live_" + "4eC39HqLyjWDarjtT1zdp7dc",
    "openai_key": "sk-proj-" + "a1b2c3d4e5f6g7h8i9j0a1b2c3d4e5f6g7h8",
    "huggingface_token": "hf_" + "abcdefghijklmnopqrstuvwxyzABCDEFGH",
    "npm_token": "npm_" + "a1B2c3D4e5F6g7H8i9J0k1L2m3N4o5P6q7R8",
    "pypi_token": "pypi-AgE" + "IcHlwaS5vcmcCJGE1YjJjM2Q0LWU1ZjYtNDc4OC05YTBiLWMxZDJlM2Y0",
    "jwt": "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxMjM0NTY3ODkwIn0.dozjgNryP4J3jVmNHl0w5N_XgL0n3I9PlFUP0THsR8U",
}


@pytest.mark.parametrize(("kind", "secret"), SECRETS.items())
def test_secrets_are_replaced_if_asked(kind, secret):
    code = f"token = '{secret}'\nprint(token)\n"
    after, counts = replace_pii(code, secrets=True)
    assert after == f"token = 'REDACTED_{kind.upper()}'\nprint(token)\n"
    assert counts == {kind: 1}
    assert replace_pii(code) == (code, {})


def test_time_is_linear_in_what_begins_like_a_secret():
    text = "sk-" * 100_000
    start = time.process_time()
    assert replace_pii(text, secrets=True) == (text, {})
    assert time.process_time() - start < 5


def test_private_keys_and_passwords_in_urls():
    body = "MIIEpAIBAAKCAQEA" * 20
    key = f"-----BEGIN RSA PRIVATE KEY-----\n{body}\n-----END RSA PRIVATE KEY-----\n"
    after, counts = replace_pii(key, secrets=True)
    assert after == "-----BEGIN RSA PRIVATE KEY-----\nREDACTED_PRIVATE_KEY\n-----END RSA PRIVATE KEY-----\n"
    assert counts == {"private_key": 1}
    code = f"KEY = {key!r}\nURL = 'postgres://bob:hunter22@db.host.com/x'\n"
    after, counts = replace_pii(code, secrets=True)
    assert counts == {"private_key": 1, "url_password": 1}
    assert body not in after
    assert "hunter22" not in after
    assert "postgres://bob:REDACTED_URL_PASSWORD@db.host.com/x" in after
    ast.parse(after)
    for harmless in (
        "AKIAIOSFODNN7EXAMPLE",
        "https://{user}:{password}@host",
        "sk-learn-and-some-more-words-of-prose-here",
        "http://a:80/b@c",
    ):
        assert replace_pii(harmless, secrets=True) == (harmless, {})


def test_the_standard_library_stays_the_same_programs():
    changed = 0
    for file in sorted(pathlib.Path(sysconfig.get_path("stdlib")).glob("*.py")):
        text = file.read_text(encoding="utf-8")
        after, counts = replace_pii(text, secrets=True)
        changed += bool(counts)
        if counts:  # the same syntax tree but for the texts in it
            shape = [[type(node) for node in ast.walk(ast.parse(version))] for version in (text, after)]
            assert shape[0] == shape[1], file
            assert len(text.splitlines()) == len(after.splitlines()), file
    assert 5 < changed < 60


def test_the_step_counts_what_it_found():
    texts = ["mail ann@acme.com from 93.184.216.34", "nothing here"]
    documents = [Document(text, str(number), metadata={}) for number, text in enumerate(texts)]
    one, other = ReplacePII(PII(ips=False)).run(iter(documents))
    assert one.text == "mail user1@example.com from 93.184.216.34"
    assert one.metadata["found"] == {"pii": {"emails": 1}}
    assert (other.text, other.metadata) == ("nothing here", {})
