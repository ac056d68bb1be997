# SPDX-License-Identifier: MPL-2.0
"""Cost over size as an SVG: one panel a group, logarithmic axes, one line a kind of work."""

import math

WIDTH, HEIGHT, LEFT, BOTTOM, TOP, LEGEND = 460, 300, 70, 40, 30, 18
COLOURS = ("#1f77b4", "#d62728", "#2ca02c", "#9467bd", "#ff7f0e")


def decades(values):
    return math.floor(math.log10(min(values))), max(math.ceil(math.log10(max(values))), 1)


def panel(title, lines, left):
    xs = [size for points in lines.values() for size in points]
    ys = [cost for points in lines.values() for cost in points.values()]
    (x0, x1), (y0, y1) = decades(xs), decades(ys)

    def at_x(value):
        return left + LEFT + (math.log10(value) - x0) / (x1 - x0) * (WIDTH - LEFT - 20)

    def at_y(value):
        return HEIGHT - BOTTOM - (math.log10(value) - y0) / (y1 - y0) * (HEIGHT - BOTTOM - TOP)

    out = [f'<text x="{left + WIDTH / 2}" y="18" text-anchor="middle" font-weight="bold">{title}</text>']
    for power in range(x0, x1 + 1):
        x = at_x(10**power)
        out.append(f'<line x1="{x:.0f}" y1="{TOP}" x2="{x:.0f}" y2="{HEIGHT - BOTTOM}" stroke="#ddd"/>')
        out.append(f'<text x="{x:.0f}" y="{HEIGHT - BOTTOM + 16}" text-anchor="middle">{10**power:,}</text>')
    for power in range(y0, y1 + 1):
        y = at_y(10**power)
        out.append(f'<line x1="{left + LEFT}" y1="{y:.0f}" x2="{left + WIDTH - 20}" y2="{y:.0f}" stroke="#ddd"/>')
        out.append(f'<text x="{left + LEFT - 6}" y="{y + 4:.0f}" text-anchor="end">{10**power:,} µs</text>')
    for number, (name, points) in enumerate(lines.items()):
        colour = COLOURS[number % len(COLOURS)]
        path = " ".join(f"{at_x(size):.1f},{at_y(cost):.1f}" for size, cost in sorted(points.items()))
        out.append(f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="2"/>')
        y = HEIGHT + LEGEND * number + 4
        out.append(f'<text x="{left + LEFT}" y="{y}" fill="{colour}">{name}</text>')
    return out


def draw(path, panels):
    height = HEIGHT + LEGEND * max(len(lines) for lines in panels.values()) + 10
    out = [f'<svg xmlns="http://www.w3.org/2000/svg" width="{WIDTH * len(panels)}" height="{height}" '
           'font-family="sans-serif" font-size="12">', '<rect width="100%" height="100%" fill="white"/>']
    for number, (title, lines) in enumerate(panels.items()):
        out += panel(title, lines, number * WIDTH)
    path.write_text("\n".join([*out, "</svg>"]) + "\n")
