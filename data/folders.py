"""Class folders and split folders: which label and split a picture has by its path, on disk or in an archive."""

from data.errors import ImageSetError
from data.listing import SPLIT_NAMES, Row, Tree


def class_rows(tree: Tree, where: str, notes: list[str]) -> list[Row]:
    """Read labels and splits off the folders that pictures lie in.

    Parameters
    ----------
    tree : Tree
        Pictures and folders.
    where : str
        Whose tree it is, for messages.
    notes : list of str
        What a user would want to know is added here.

    Returns
    -------
    list of Row
        In the order of their paths, folder by folder.

    Raises
    ------
    ImageSetError
        If two folders stand for one split.
    """
    ordered = sorted(tree.pictures, key=lambda picture: picture[0].split("/"))
    splits = _split_folders(tree, where, notes)
    rows = []
    for path, size, mtime in ordered:
        parts = path.split("/")
        if splits:
            if parts[0] not in splits:
                continue
            split, inner = SPLIT_NAMES[parts[0].lower()], parts[1:]
        else:
            split, inner = "", parts
        rows.append(Row(path, inner[0] if len(inner) > 1 else None, split, size, mtime))
    return rows


def unwrap(tree: Tree) -> tuple[Tree, str]:
    """Go below the one folder that archives often have at their top: ``pictures/`` of ``pictures.zip``.

    Returns
    -------
    tree : Tree
        What lies below it.
    prefix : str
        The folder with a slash, or an empty text if there is no such folder.
    """
    prefix = ""
    while True:
        top = {path[len(prefix) :].split("/")[0] for path, _, _ in tree.pictures}
        (only,) = top if len(top) == 1 else ("",)
        deeper = f"{prefix}{only}/"
        holds_folders = any(folder.startswith(deeper) for folder in tree.folders)
        if not only or not holds_folders or only.lower() in SPLIT_NAMES:
            break
        prefix = deeper
    pictures = [(path[len(prefix) :], size, mtime) for path, size, mtime in tree.pictures]
    folders = {folder[len(prefix) :] for folder in tree.folders if folder.startswith(prefix)}
    return Tree(pictures, folders, []), prefix


def _split_folders(tree: Tree, where: str, notes: list[str]) -> list[str]:
    """Return the top folders that stand for splits."""
    folders = sorted(folder for folder in tree.folders if "/" not in folder)
    deeper = {folder.split("/")[0] for folder in tree.folders if "/" in folder}
    splits = [folder for folder in folders if folder.lower() in SPLIT_NAMES]
    # `train` may also be a class of vehicles: a split folder holds folders, or is not the only kind around.
    if not splits or (len(splits) < len(folders) and not deeper.intersection(splits)):
        return []
    if len({SPLIT_NAMES[folder.lower()] for folder in splits}) < len(splits):
        raise ImageSetError(f"{where} has several folders for one split ({', '.join(splits)}): keep one name for each")
    filled = {path.split("/")[0] for path, _, _ in tree.pictures if "/" in path}
    others = [folder for folder in folders if folder not in splits and folder in filled]
    if others:
        notes.append(f"passed over, beside the split folders: {', '.join(others)}")
    return splits
