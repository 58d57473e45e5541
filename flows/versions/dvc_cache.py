"""DVC's own cache of the machine, which its default shares with every user of it."""

import os

from tasks.workspace.files import open_cache_or_temporary


def keep_dvc_cache_private() -> None:
    """Have DVC keep what it knows of files in the user's cache, unless `DVC_SITE_CACHE_DIR` says where.

    Its default, `/var/tmp/dvc`, is a folder in which every user may replace the databases of others. DVC
    believes the hashes in them, and unpickles links from them at a checkout: another user's code would run.
    To be called before a repository is opened.
    """
    if not os.environ.get("DVC_SITE_CACHE_DIR"):
        os.environ["DVC_SITE_CACHE_DIR"] = str(open_cache_or_temporary("dvc"))
