"""Remove what no decision, branch or tag needs, from DVC's cache, its remote and the project's folders."""
