"""ViCA: text looks at the picture in a few layers, and visual tokens are never computed on."""
