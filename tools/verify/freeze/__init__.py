"""Freezes what one version has in flight, so that every later version can prove that it finishes it.

`kinds` lists what a freeze must hold, `situations` brings it about on a local cloud, `reading` reads it raw,
`release` writes it under releases/, and `finish` shows that the present code brings it to its end.
"""
