# Copyright (c) 2026, PortFence contributors
# GNU General Public License v3.0 or later (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The eBPF programs, built from bpf/portfence.c by scripts/bpf --write, which also checks that they are what the source says."""

from __future__ import annotations

import base64
import zlib


def bpf_object() -> bytes:
    """The ELF file that bpftool loads."""
    return zlib.decompress(base64.b64decode("".join(_PACKED)))


_PACKED = (
    "eNrtW31sW1cVv8+xkzjr2rRbWCmDvtBRnJC4dpJ6XUuzNVVaAlGbpcm6MYXXZ+cl8erYqe20ybrRgdiHJpj4GqrEBmVsMD41ENAB",
    "E94fDII0UCUqVKBCFeKjQEEDIagQyNx7z+/az9d2+zrCAAlLzn333PN1zzn3/u67bo8NDu/yGQZTH4P9lZV75c/xm8rPt+Dvas5Z",
    "eBXR7JkbZHs//67i30TLxaLoF56g8SYfYxeLxeJaTfn90iZjbaxJ9vXxgq+Sr0BsrK2pR7YB1inbow+fkfaO3nVOtifBl7j771V+",
    "/P0SfhSaob/5eprXu9A31sn2ZCPNr5Ak+nSQMZO3R9Ae+wDR9xuYl9FC87DLdo6Kb8t56Vcba2S6f+cv4d8488v+U8Fm5nP518TV",
    "cLFigF0oXkkcFz9F8Vp8muLX1kQDJzmTX8bBJz0cb/bzfBNdhMjOkry1htpxXwPJNUP/fUR/FPZt21+KizA0bvjZMRe/fUiP21+L",
    "bn2L9i3Iw58l3V7TBbt/Ij4+PzHFRCfF1V69lvK/7kJJD9XJS0UVBzHTQpDoIn9Cfn9QxvFm+xD5W/ggjd+MeW5Cu74D/vKvmPk0",
    "I/kC5rEK8bdXt5LddRTfAPK9/tXIm4oX8jhtoJ7QthmWTISI+8e4Y0fXUb7sLE2ontz29tvJfnaFbCfar0IeaJ2OG0HpyUnEO7EO",
    "6+RJ+OWndaLqVsRX8J1soHmeDFB9iDhGXXGa9sEPtHaO8lZoR9yiiDdXdjP8FvF70CjnX8zs07wVnhdy8KeB9BWuhR0/4r0Z8R5E",
    "vMdQ72+APdCPBGAvQHLrby3bE3Z2G9C3DPoNTf9K6DeuQP/6Aej1kd717WV9qxA3KY91uAp1ab/+APWRj1XXgI64rwffWS4sKvNg",
    "52+LtfafUt4biO9+7PttPFuyDlvOYf9ai32Y9rnFT1Cdr0J9Fz6E+SJ/R9DaWX9pnxGfL2x4vOiukwD7aMW61fcze3Vl3X8X7QvG",
    "XJEZjVLv49zPxSfgp8+Qfiv9Yj7flHbuqthn7EO0Xtb6aD9V9l7b7hQr10+i2OiSSzz8r62fALuD5P9r8HQJeHrqfwRPz9TF0zOv",
    "KJ6eAp4u/ZvxlAJrx6le966pvf+O+1aC/1rwEx6tlerL9T3R01CBz21Gg8RnhVfjvgDqXsbLqI/bv62D27/WcPuXJdwWGT3aeQbj",
    "VCeJTuDcGhP9X6B/A/oK50M1cT7xH8P5pWXC+VP/x/n/4/wy4vxPirX2RTfOX18T50/Vwfml/zDOT2g4f+oyOL/fI86Pajg/ssw4",
    "v4vkr8P8Dus4f6EqTxeWA+f9wF1/L+L+Jtqv7j5T2ofdeVLvGYnOZcb7JuD94hXi/SEd71+qi/cvvRy8b7oyvFfn38Un0X4a5w+/",
    "hveNwPtGDe8HdLwnAyehX+G86tuHaP0VwL/fR+jd5vsb1Sv0FTZgHPXX1vAXGs/5S3T5/t3gk/i+H/Xa5vuj5Dtr0H5hD9D+UsC+",
    "sn5DnfU9cALr+jfwY9Kj3JOQ+znkZjzKPQ25n0Iu5VHu85A7Dbk5j3LPQO77kMt7lPsK5L4DuQWPcs9CrgC5ezzKPQe5ZyF3n0e5",
    "5yH3Jci9x6PctyH3Wcg95FFuCXKfhNx7Pcq9CLnHIPd+j3KnIPco5D7sUe405B6B3HGPcmcg9yDkHiP+9trnN3vgLPG3v6uo1jvt",
    "z8cqcWLhFcKJRuzXjRpOPPwK48SyvRcuM040vkyc0O9ZGz2+F8a94YR9CO+DObwPXlM+jzAXfuj1Ot5AjHYe74c5eo8p9OA8FtDe",
    "E0fpPXC/n3BEnXfa/C10n+tT9Yv3lkHtXOQHf8Cg90h1LmkwKvy1BirxT607iV8C9xrwfphA3PtYyS+Je/6zRcVvuPSU7Ct7/kp7",
    "Cg/Hfacr8TDuEQ/jCg9fJP/iHvEwrvDwBch5xMO4wsNvQc4jHsYVHp6EnEc8jCs8fAZyHvEwrvDwM5DziIdxhYdPQM4jHsYVHn4U",
    "ch7xMK7w8MOQ84iHcYWH74OcRzyMKzx8AHIe8TCu8PAY5DziYVzh4QLkPOJhXOHhIch5xMO4wsO7IHcZPIwrPJzU8DAu+7tHhrt7",
    "w5HuTLY7ZeedLPsv/3z8dwbenBlbEaDvL1tKw/KWDxAib9bMUldel8i9zA+eQCVfSUdj+blCBj/USpLYjV9NevxC9nX8exUG6WTB",
    "moVbb4QNYa9Z0xuEXrftq/mfzcTrPyfuoxjdg4jPTjwL/iE8C5f24vmAxFnaX8XqnODf1fQjNEuo5wa6c1tNRcBS8FWcDeZqx0P6",
    "uhK++uvQW0t1xfziBvHech7YuxFr4esjoAv/juMuUewQoopXwFccKVaucekQsVn5Mm1c67LRBBufg402zYaorS8jJiK/X0NMml3p",
    "v1L719Ww/z3YX6fZf22d2gOMi2dZb8L29S7bBmyr+d4He2ruP4S912n2xLbxEybvjP1v4e15V7392VVv/0COhY1G3M0Jva14Pgef",
    "VmJ+14FuGvSVtcrbLuD/Ad5u4d/XM9fk+FNP6d9NsKsFeRv2sZ10Ll2xoc74A400/oY64/1037TijXXGPxukcXE9/RTtJyt9cO0b",
    "LRVruGI/6UJ+xHoqQK4bMX6hRbZiaeHUT7w/aJGtpGO7Z6KeXuV6fo3reT2ehZ+nXTrDoAvbZ8k2HYKT6TyzrB2jozvusPYNvX3Q",
    "GrtjZNCyWNqedVh8Me/k2PwWNp/OJafTzqSZmLGzLOdkDycTDptK2dM5NpfJ5nMsn01yVjuVSTssxzuTvJfL29k8S2WOsFzybofN",
    "9/aUFQm7+cU5h83aC5aTJvFZe84ipQedRXbYTs07yliOO2PNJyfZfKyvrIWbm5Z/xGhiOpuZn2Mp57CT4uxzU1Yukzho2ZOTWTbP",
    "1VhT9mwytUjPybk+9RCjBzEPBpa5bCafSWRSbDY3beWyCclefo6x3EGWyKTzzkJezn/KSScci1PSfYzc2CQ6TiLfx8KbuCubSlzh",
    "hIi5qUmFeMzmE3mzwmuzEzY6WBDjiIbZqR62K5KVmbK42zxSuRDEuvvVPDq2sSAPv8kDyCWEkWknbyXms1keehFWazo5GRJcsCPS",
    "b3bKv8QvUpPKZA7Oz1lOypkNbaR0dJkb+V+XYA0HpZaba2tR2e2SXB3mVvd0KJLSreSUGWrHUAfN5W4nm+HaI5haJ0/iZD1nqSa4",
    "s0KopE9K3HOP2S5luVoih0hVf78pxcyNZrRDDPLKM2vGz+ZpzOUzWThs8VBKSWGIVPIQmZs6zUnHmXOyZn7GTvM/yZyJhJmdmzjn",
    "lYSeLPEJUfClFRlBFpzKZM2QKDHyfrs5PHjb4PA+s9uMbgOtn0eNHru7O8yjXD6YdfLz2bSnJCF8qrbM7dvNoZGR0b1je62xnSMd",
    "fG+X48mc0DIXtxMH+8oVqRZfh7lxo9kegurufrnseah3De/YbQ3v3TsysGPn2zrKha8WBi8s8Xe7WdKYO1iqDzHC8ylaTudLVawy",
    "1+LhdLGurGTaFK2I/HbzaJgWPX/cscsa2jM41mWGy8NlZdzre7kpRGrHvn1Du/eoiXWpuu1SmmVaRMnEHZ4RkcsQ73XMZXLJfDKT",
    "5ukozV3uk3dm8jNOdkJIQaK/f7sZ690mCmdsxjHFlrfVjJpHZhxRPY5ZUpXie6cyw2srb2bt9LQTpqpKpiedBWGdHt5kztipKW5d",
    "Np0Q49kwQ6M79uwelHVCvvNFJX3ShWswIyalGfE9/04pMsFl6k+ZWLZpW2hM20JjNTbM2GU3TK0EY1UlGLszMtFlVlOjNak9Nam9",
    "E6KOyZht3mPGYTghFkVkYYp/IvwjF//WraK71Q7Hw4nwpEwOwhZS1bZRynQI4WjPjTyuJv9cwSJxFXjMXeE8m66KPuouaYpCJSVa",
    "RempovRO3Nvlylucp7IEfdSpTJqkXTZplXXEQWPWXpSiodLyqkyCMNBlXmarEbASBUwIAR6Dkb2jY6HQfDTWUVJTgoU68d43Njq0",
    "c6xDAgb2FcGuDHvdz2jvFF5011wvb3YtEn5qArlDi3XMHetYjVhffoEEX4nVIXeSS+WulHNaMiKKk7R4ItGI/Gxjw0N7xm+33jY4",
    "umdw2LptcHTf0N49TJ5E8052NsfCB7niqeQ0C3PoyrEUt5XOOaUToJe7ggY6old8Nvlo5CGNbhtEb/VV0tPgP6PdS38R9Oc1+juh",
    "56Km/1F4tKDx/wF6jmv0Lyg9Gv0X0BPS/PwK6Gs1+gLoBzT6Htid0UL0HdC3aHQf6AcaK+k74Gezv5L+HOy2avzvhJ4ljf5t8D/b",
    "WCuPgSoazT9Qlcc7DKLreZwCv57HT4Gu5/EI9Oh5fAQ3AHoefwU9eh6fUno0+lno0fMYgx49j2tAX9LoP1B2Nfou0J/W6DcZ6gaj",
    "kv430E9pef88/Lyo5eVb0H9C09Ov7Gr890P/gaZK+mHwjzTVyns1sd1Hr7l63m81iK7H7R3gP6fF/2OgL2n0OejR/9PGg3i9vk+j",
    "/wx6Tmj0x5UezZ/T0KPn/UnQTY3+CPTr+aX4BKto63x0s6jHZ8gguh6f28Cvx+cjoOvxSUKPHh/6NSBYFZ8fQY8en0eVHs2fF6FH",
    "j89joOvxiSo9Wt0+ALvPa/wtoJ/X6O+Dnosa/Wvg1/fJ73H+NS6jqn53yvuYFSzkur+ReQGdafRrQF9w3fGIzwbQRzT+t7vuWis+",
    "0p/yPnke/vxY0svrKIR12Srp5fppBcvV0u5VJTr+uRiLlM2wXWK+rv5u/n3W1Rf3iLcb5b64qz5uVPLPNJb7b/036FdT9qr/eU3/",
    "AU3/CU3/cut7zl++VBT+nvaX7wvF+DlXX9i74OoLfRddfWGvNVDu7xG/EYzftv/2W0f2jbKwvOCiUxUdtXC55r6Uw7VbOJU6PCsP",
    "mfxFtXwGo0u7MD+M5u04bxdnRVvzRBfOOqnwwNguNjwwELGiN4m219oimh5qotREqOm1+jDYi9FeDKu2R/VvJP7ojcRPbRRtRLTC",
    "uP7aqb+W6kdwlwwRpJGeGCmnNoKWG4/BOMajGI9ifDMNb6bRzTSIXu9m6EYbBXMU41Gw87Z6In1VV5T6e5s2kT4Y7UP0+mC8FxPr",
    "RZ986AEVs6VeH9peNaqGezABCEcxHsW46vdFYTsKW1EYQz+KPrVRtBG0vVZvBPYj0IN+TwTyEciDHgVfNPKv/+74VsZqvE0w9okY",
    "tX/xVW3HVX3x1Y+3t9Sxpx2r2NeNS8vr56dmje+rBv3eqNs7g3/ncUDhAObZ7OqLz0t1/H9/UyXe1LN/gdW2v2Vztf1ADfu/rzP/",
    "hVWVuFbP/m/qzP847I+47DXVsH9DHfsn2irxs559s4798zXsB2vY34b46zX4zPWVOF2v/prqyC9B/ji7tP+5Gjpl3vCDZbD10vWb",
    "qZf/WHX+r64xf/GbWsNwMVM6aqr8QT54mfmPsqqjJp33u6mdcZ0XBl321b81+CdbRr9k",
)
