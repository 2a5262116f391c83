"""Pure policies: placement, hierarchy, reuse, timing. They import lifl.topology only."""
