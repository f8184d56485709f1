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
    "eNrtW31sW9UVv88fSVza9IMGSin0lUJxQuLGTmpKuxTSLi2hWZOlKRRQZF6cl8SLEwfbaRvKR4HBGIKJr0kdg0GrTisbaBWaaCVg",
    "RhNooDGpEvxRMaYViU3dVk2dtrFOYvPuvef3/N67sVvXlDE2LDn33XPP9zn3nPuu27s6utZ7NI1ZH439ndkz+7M7aj9fg79zOebO",
    "hUfzYmZccKmE3se/s/k3PuOkhB8Es/jCj+U8t5fm1R7GPs7n8wsUYfdJHTheNc3rqs+Xo3Er5lqdHA9WkZzcCMGHaxjT+bgd4113",
    "E/wGjfjVaTPkPGfYcnaK74xjUq86VsVU/Y6dQr8tjPh9v8bLPA79qjkbTpb3s+PT7D15Cn51bJacq+s5Tym/0IPwr0/MAx5pwZaA",
    "j8eF4DVCrzThx+bRuMXjJboa8NtF8G9D3tRexHOJr+A/Adii+dhdDjrLXtu/H+WdfKeWXIN4/YX4zWuE/D8THrdLmBZvIP8bcxcg",
    "T44X+IjPzgdP5C37hcW5AMG3B4j+hoD099XGraRv7jFavxr2Lse4uB768q/wwDAj+hzsmA2/G3PnkNyFR/JWnn1PxpPyY/EFiKfl",
    "P+TZsIb8w1in9cvAGGkyJHcv8LzAw9i2dCvJTc8k/+8h//cvPYfg8y6F3wJSA+E3TfoN+2kf9PHRfrLWD3rJvoN+yg/hv7CDv+Wn",
    "YQ/0wWhkKG45HX5rhr+FT+E34b9vMNufwsIf8K+wIJeBPrAv54McH/y9Av7ugL/7kOeXQR7g2/2Q5ye6xT22PCFngxW/s8BfU/jX",
    "gr92BvwXrwVfD/FdrNv8ZjvzDftxNva1ccktNEc8ZnsBbwHfCI3vc3yRmaMNf8gXq1Mi3nMQ52tkPfHKvM1VoV4wqqN+1K2pPZTf",
    "s5HPuceL56eR9jFnHX9h6TMkfwkDv6dd+1WtX8Zc9/74OcY3tIk806ok36e5nnVVGunrqM8vS/6jrrpiZGifLPBQnbXkWHl90VIz",
    "79438XyVgz7+YGX7xs9uylNdOPw573dHSva7I/+P/W4f4tlOCWyspfzqnle8Pm7x1BJe+3zgU79YIMXY+dgf8br6Z53mlf3T6iNb",
    "PH4aNbm/tNJ99ffuvtpu9dXfKX31w0JfFZHa2XAE64soHxvQ1+fpmH/o2id2Hw4W7cPxz6wPv/kZ9eHDn3IfPvxFH/5c9+H38sXq",
    "p4j3ojPqw29+xn24v8w+vLXMPnwYfbhX6cM9Z6kPbyC682CXcSnqxNG8ux8f/3T7cQD9ePcZ9uNH1X58omQ/PlFJPw6U7sfHz0I/",
    "rmM1rj5svS/WedCPPUo/9pTox/BLbo67H1twY4DeB3NL4Ucvddc67z8or7A/c61YR12o8/2N1gd9Bbh8f/V5ZP8VfKQdXvK7tZ8N",
    "L+3/3KXY7612vZFxxWh4n6X914p+6R0sk24f6D4A3UiZdPtB9x7okmXSPQ+6d0A3USbdAdC9DbpsmXQ/Ad0boNtRJt0h0P0UdLeX",
    "SfcK6A6CbleZdK+B7gDovl4m3eugew50D5RJ9ybo9oLuoTLp3gbdd0H3SJl0h0H3BOieKJPuXdA9DLrdZdIdAd39oHvK1S+nnWu8",
    "7xN+ZJerPvvZnV/U9f/hum4YeL8axPvVfNR765yFeq/m1xbfuaDD+5ZBjHPn4pzjV967Nvtddf+gVe99M+j+0mvlG94HOmw95LnD",
    "B3y/Ru9lPis/NJe+sXXufmXtEylX9Cnfb2g/gN6ScwPO0XX+X+UtfM3B56Df0hfy/JC32e6DMk+873zC/vWLCvvX6xX2r1cr7F8v",
    "Vdi/flxh/9pfYf/aU2H/erLC/vV4hf3roQr7130V9q87K+xf2yvsXxMV9q/EGfavuNK/DDnf0NPV1BJqbkqlm5JG1kyz//LPM3/U",
    "2AI8z/TT96EZhWVZ1WGivKnSC1N5/SBrmQ84fjdegUeV/eyiwQ+JEiSq8QXExydoL+bfc7CIENYItS6HDA33HU6+AfB1yhbdbwXh",
    "+o6Kex7cK4jPOjwL/E48C5W68XyL7MdUX8Xu7OffufQjKYtbz166U5hLScCS0FWcISaK+0PqWgtdfSXgaJ+CpU/cyN1hx4HdA18L",
    "Xb8FuNBvN+7mRIV4CvczYhFHhdp5Dh7CN7UVypjvkFENGT+CjDpFhsitF+ETEd+X4JMaR/jPVP75ReS/BfkLFfkXlcg9HF/Es8w3",
    "IXuRQ7YG2Za9uyDPsv0dyLtYkSeuY95j8g7Wdy0fjzny7a+OfPsnYixkVGkEF3zn4PkodKqFfecDrmv0lbnKx0aN+NzCx5X8ewlz",
    "GMefIoXf9dksAV6Ne591dN6YubTEelMVrV9WYv231bR+eYn1rwZoXVz3dlE9qfVANWOGaw+76kkj4iP20xDomuDj5Aw5iq3FrrDj",
    "xyZnyFHCcSxkIp/Oczxf6HhejGddntNtniHAhex7STa9LSTGsywWa+/tbb8xtrnzpo5Y3409HbEYGzfGTDYwlTUzbHIlmxzPJIbH",
    "zUE9PmKkWcZMb0vETTaUNIYzbCKVzmZYNp3gqEYyNW6yDJ8M8lkma6SzLJnazjKJ20w22RKxGQm52akJk40ZO2LmOJGPGRMxYjpq",
    "TrFtRnLStIRluDKxycQgm4y22ly4uGH5R6zGh9OpyQmWNLeZSY4+MRTLpOKjMWNwMM0mOZvYkDGWSE7Rc2Ki1XqI0oOwgwFlIp3K",
    "puKpJBvLDMcy6bhEt5+jLDPK4qnxrLkjK+0fMsfjZoxDxlsZqbFcTMx4tpWFlnNVlhewQnHhc12hCnKfTcazuktrvQEy6lkA6/CG",
    "3mA9tFmgWGooxtXmnsoEQda0xrKjfjULcPfr3IGcQggZNrOx+GQ6zV0v3BobTgwGLazbzHSKozVj2sDdY5GJCCVTqdHJiZiZNMeC",
    "y8jbjfoyQSQYJIb04BJJcfvt+hJJy9UncJBYrVmjSzJ9mR6uF4s8pnpRzQzuoEw2lUZsY1xJSSkEEcvEYL2+vEEfNM0JM61nR4xx",
    "/ieR0eEKvWE5x4TzRE7rDfJvCWsKWcQN4py5lKFUWg+KgJHGbXpXx/UdXZv1Jj28GrA13FP02NRUr+/k8k4jgvub858kAdIKQXDK",
    "IBdlZW2NRmlZgRnA9TS1UkBva9M7e3p6u/u6Y33reup5CZbriYxgOjFgxEdb7cSx9ki9vmyZviQIlk1r5O7kcVvf1b4h1tXd3bO2",
    "fd3Gelt1K3+57uJvm17gmBkt6CdWeHKIkcP5jhKbwWE+h4v0jyXGdTGKMLbpO0O0N/lj+/pY56aOvkY9ZC/bzLjWd3BRaTM7mR7X",
    "2zdv7tywyTKs0fJto8VZZpLIvwGTh1q4Oshn9ROpTCKbSI3zOBdsl+Xs5lR2xEz3CypQrFnTpkdbVoss7BsxdVGZVulhffuIKVLR",
    "1AuskrzEWWJ4omb1tDE+bIYoRRPjg+YOIZ0ertBHjOQQly6HBpDxaOjB3vZNGzpkApLufIdKnVTiIsjwScEiXppvliT9nKa0yYSy",
    "Wql0UaXSRYvUtehp65qSgtFpKRi9ubm/UZ8ODReFRopCW/pFHpMwQ79dH4DguNgUzTuG+KeZf2QlWbVKTFcZoYFQPDQogwO3Ba1s",
    "WyZp6gVxOHIl96vOP2ewSRwJHnVmOI+mI6N3OlOavOCGhKdBItMgLf13NDriNsBDWehQNHEHTcJOGzR3HulX62PGlCQNFraXOwhC",
    "QKN+mlJTr/N9g54jCLgPerp7+4LByXC0vsCmUOZK+HtzX2/nur562X1QVwS6Jbjceka1U2jRVHS/fMmxSfjhBuB6xddRp6+jRXx9",
    "+g0S+E/sDllJThW7QsxpywgvDtLmaQ43y89q1tW5acvW2MaO3k0dXbHrO3o3d3ZvYvLAmDXTYxkWGuWMhxLDLMQ7WYYluazxjFk4",
    "qJ3yXd7LvNNgb2FFV+5/V3sIvkvB79VwFFfwHwafHgV+MfgcUuBfA/xZBb4H/A8r8FsBf02Bn4DcOR43/IfgrysmHwX+CQX/NuDX",
    "VLnh/4LcQwqfKQvud8OfAv8Rhc/dwN9aVSwu/mmwn+HNV41Lq4fgalw2anhTVvDvBx81LueBjxqXAcDVuHwH/NW4PAZ8NS4PAr5D",
    "8fMx6HOtAt8L/K0K/CPIVf2fBv4DCjwB/GcVPx+x/OBzw58Enx4Ffy3geMMrfJ4AnxNF41g9DfYyXhODin+aPAR/QMH/skbwGgX/",
    "LvDZqsBrwUf1/02A71fgj4L/EfXffwD+pgJ/HnLVeJG9gWkwuiUPTLN3mYfgqr1tGsFVe3eAj2pvFfio9vYCrtr7TfBX7b0RcNXe",
    "PwF+QLF3H/SZUOD3QO5uBX6dpY8CPww+C5S8fZXLneeoz1Z+nSvvG2bCH/Y94VLAexz3FtadpYAHFfhCwJkCv8lxl+j8zJT62HXp",
    "AaT2LyXczvMjQFkk4XY+vAb9Z0m55xTgc13/R4TK1ZpCXaa5+HdZzZo9F7g9jnm70LnKnq89C/z2K/yuVfgdU/itVPhtVfh9UvpX",
    "fPall9DnXZ99nyXWjzrmgv64Yy74n3TMhfw5fnu+XvwO8ZVN3T0br+u8loXkBQwdJ+iMgcsf56URroVCyeS2MXm64m9o9uGDLpVC",
    "/BSWNQb4ODUmxqJHmVDaTIbW9q1nXWvXtsSuEkOEhjANzdasBdPIVYQbBnIY85U0XUnYKwl5Ja1FAI0AbM3DmIevlIqo717qu5l6",
    "DnXQEEAKi5IiURIRJQlYa8ViC1ZbsGyNEWu+AkaugJEroPAKKLyiiMKt067N1JcUReFWeKcV3mmFEoCHWyEc62Gsh7HeAltgCjTH",
    "rAW8MYaBHMZ6GOjWvCUC8gjowtAJY2sz8DBGmqFr89n5Xes660JZ+XyAf8/5olK31f/zpuGrHgOuKSFPOXawF7RT06vnixoF7zmN",
    "fs9S5W3Fhb7VF+bAzhrHXHw+LqF/c7W73peSf5IVl7+/iHx/EfkflLD/UK27r5SS/+sS9p+MuP04B5f0qvzmEvIfme/uX6XkN5aQ",
    "v7JluvxAEfmr4X81B3sudPfJUvlXXYJ+BPS72an1zxThSY2chgOzT52/qRLx3wH7b3HYO6uI/eI3G29XPoWfzuzzBOgDp7G/1/Uz",
    "lv05gB9+nP28zSHf+i3733/jRfw=",
)
