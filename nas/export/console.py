"""An exported network as tables for a terminal."""

from __future__ import annotations

from rich.table import Table

from nas.export.write import Exported


def tables(exported: Exported) -> list[Table]:
    """A table of the network, and one of its files with their differences from the supernet's subnetwork."""
    card = exported.card
    images = card["accuracy"]["pictures"]
    network = Table(title="Exported network", title_justify="left", show_header=False)
    rows = {
        "architecture": card["network"]["architecture"],
        "choices": card["choices"],
        "val accuracy": f"{card['accuracy']['val']:.1%} of {images['val']:,} images",
        "test accuracy": f"{card['accuracy']['test']:.1%} of {images['test']:,} images",
        "FLOPs": f"{card['flops']:,} an image (2 x MACs)",
        "parameters": f"{card['parameters']:,}",
        "BatchNorm": card["batch_norm"],
    }
    for name, value in rows.items():
        network.add_row(name, value)

    number = exported.comparisons[0].images
    title = f"Files, loaded again, against the supernet's subnetwork on {number} test images"
    files = Table(title=title, title_justify="left")
    files.add_column("file")
    for name in ("bytes", "largest difference", "at most", "same class"):
        files.add_column(name, justify="right")
    for one in exported.comparisons:
        difference = "0, bit for bit" if one.difference == 0 else f"{one.difference:.1e}"
        tolerance, same = f"{one.tolerance:.1e}" if one.tolerance else "0", f"{one.same_class} of {one.images}"
        files.add_row(one.file, f"{one.size_bytes:,}", difference, tolerance, same)
    return [network, files]
