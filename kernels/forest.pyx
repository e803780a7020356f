"""Kernel of the random forest: every sample goes down every tree.

The `def` takes prepared arrays, writes into an array that the caller allocated and checks nothing;
`lcu.train.forest` holds the documented function. A tree after the other, so that its nodes stay in the cache.
Cost: the depth of a leaf for each sample and tree, most of it waiting for the next node.
"""

from libc.stdint cimport int32_t


def add_leaves(
    const float[:, ::1] values,       # IN   [sample, feature]
    const int32_t[::1] roots,         # IN   [tree]
    const int32_t[::1] feature,       # IN   [node]
    const double[::1] threshold,      # IN   [node]
    const int32_t[::1] left,          # IN   [node]; a leaf is its own child
    const int32_t[::1] right,         # IN   [node]
    const float[:, ::1] probability,  # IN   [node, class]
    float[:, ::1] total,              # OUT  [sample, class], to which the leaves are added
):
    """Add the classes of each tree's leaf, in the order of the trees."""
    cdef Py_ssize_t sample, tree, class_
    cdef int32_t node, following
    with nogil:
        for tree in range(roots.shape[0]):
            for sample in range(values.shape[0]):
                node = roots[tree]
                while True:
                    following = left[node] if values[sample, feature[node]] <= threshold[node] else right[node]
                    if following == node:
                        break
                    node = following
                for class_ in range(total.shape[1]):
                    total[sample, class_] += probability[node, class_]
