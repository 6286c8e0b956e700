"""The name of an uploaded file, as each kind of client writes it."""

from __future__ import annotations

import pytest
from python_multipart.multipart import parse_options_header

from api.uploads.file_names import read_file_name


@pytest.mark.parametrize(
    ("parameters", "name"),
    [
        ('filename="plain.txt"', "plain.txt"),
        ("filename=plain.txt", "plain.txt"),
        ('filename="naïve.txt"', "naïve.txt"),
        ('filename="say \\"hi\\".txt"', 'say "hi".txt'),
        # Browsers and curl escape these three characters, in capital letters, and nothing else.
        ('filename="say %22hi%22.txt"', 'say "hi".txt'),
        ('filename="two%0D%0Alines.txt"', "two\r\nlines.txt"),
        ('filename="100%25 of %2541 %0d.txt"', "100%25 of %2541 %0d.txt"),
        ("filename=a%22b.txt; filename*=utf-8''c%22d.txt", 'c"d.txt'),
        # RFC 6266, section 4.3: the extended form takes precedence, in any position.
        ("filename=\"=?utf-8?B?5paw5bu6LnR4dA==?=\"; filename*=utf-8''%E6%96%B0%E5%BB%BA.txt", "新建.txt"),
        ("filename*=UTF-8'en'na%C3%AFve.txt; filename=naive.txt", "naïve.txt"),
        ("FileName*=\"UTF-8''na%C3%AFve.txt\"; filename=naive.txt", "naïve.txt"),
        ("filename=pound.txt; filename*=iso-8859-1''%A3.txt", "£.txt"),
        ("filename*=utf-8''na%C3%AFve.txt", "naïve.txt"),
        ("filename*0*=utf-8''%E6%96; filename*1*=%B0.txt; filename=new.txt", "新.txt"),
        ('filename*0="long "; filename*1="name.txt"', "long name.txt"),
        # An invalid extended form is ignored.
        ("filename=plain.txt; filename*=bogus''%A3.txt", "plain.txt"),
        ("filename=plain.txt; filename*=utf-8''%A3.txt", "plain.txt"),
        ("filename=plain.txt; filename*=utf-8''", "plain.txt"),
        ("filename=plain.txt; filename*=other.txt", "plain.txt"),
        ("filename=plain.txt; filename*", "plain.txt"),
        ("filename*=bogus''%A3.txt", None),
        ("filename=\"a; filename*=utf-8''b.txt\"", "a; filename*=utf-8''b.txt"),
        # RFC 2047
        ('filename="=?utf-8?B?5paw5bu6LnR4dA==?="', "新建.txt"),
        ('filename="=?UTF-8?Q?na=C3=AFve_name.txt?="', "naïve name.txt"),
        ('filename="=?iso-8859-1?q?=A3.txt?="', "£.txt"),
        ('filename="=?utf-8*en?Q?=C3=BC.txt?="', "ü.txt"),
        ('filename="=?utf-8?B?5paw?= =?utf-8?B?5bu6LnR4dA==?="', "新建.txt"),
        ('filename="=?utf-8?Q?=E6=96?= =?utf-8?Q?=B0.txt?="', "新.txt"),
        ('filename="=?utf-8?Q?=C3=BC?= =?iso-8859-1?Q?=A3?="', "ü£"),
        ('filename="=?iso-2022-jp?B?GyRCRnxLXBsoQi50eHQ=?="', "日本.txt"),
        # A text that is not a valid encoded word is not changed.
        ('filename="=?utf-8?B?%%%?="', "=?utf-8?B?%%%?="),
        ('filename="=?utf-8?B?w?="', "=?utf-8?B?w?="),
        ('filename="=?utf-8?Q?=ZZ?="', "=?utf-8?Q?=ZZ?="),
        ('filename="=?utf-8?Q?=A3?="', "=?utf-8?Q?=A3?="),
        ('filename="=?bogus?Q?a?="', "=?bogus?Q?a?="),
        ('filename="=?utf-8?X?a?="', "=?utf-8?X?a?="),
        ('filename="=?utf-8?Q?a?=.txt"', "=?utf-8?Q?a?=.txt"),
        ('filename="a =?utf-8?Q?b?="', "a =?utf-8?Q?b?="),
        ('filename="=?utf-8?Q?a?= =?utf-8?B?%?="', "=?utf-8?Q?a?= =?utf-8?B?%?="),
        ('filename=""', ""),
        ("x=y", None),
    ],
)
def test_file_names_in_each_form_that_clients_send_are_read(parameters: str, name: str | None) -> None:
    disposition = f'form-data; name="file"; {parameters}'.encode().decode("latin-1")

    assert read_file_name(disposition, parse_options_header(disposition)[1]) == name
