"""Colors of figures and pages, in one place: told apart by color-blind eyes, and in gray.

Curves and structures take the palette of Okabe and Ito (2008, jfly.uni-koeln.de/color).
"""

#: Name -> red, green and blue, 0 to 255.
OKABE_ITO = {
    "blue": (0, 114, 178),
    "vermilion": (213, 94, 0),
    "green": (0, 158, 115),
    "purple": (204, 121, 167),
    "orange": (230, 159, 0),
    "sky blue": (86, 180, 233),
    "yellow": (240, 228, 66),
}


def hexadecimal(color: tuple[int, int, int]) -> str:
    """A color as CSS and Matplotlib write it.

    Args:
      color: red, green and blue, 0 to 255.
    """
    return "#" + "".join(f"{part:02x}" for part in color)


#: Of curves in turn, on white: without yellow, which is not seen there.
CURVES = tuple(
    hexadecimal(OKABE_ITO[name])
    for name in ("blue", "vermilion", "green", "purple", "orange", "sky blue")
)
#: The same on a dark page, lighter.
CURVES_ON_DARK = ("#56b4e9", "#f08a4b", "#3ecf9e", "#e3a1c7", "#f0bd4f", "#a5d8f5")

INK, SOFT, GRID = "#22262b", "#5a6470", "#d9dde2"
RIGHT, WRONG = "#1e7d46", "#b3382c"
