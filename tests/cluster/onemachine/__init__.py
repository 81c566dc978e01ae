"""A Kubernetes cluster on one Linux machine, in network namespaces of its own: `make cluster-up`.

Owns everything that `cluster-up`, `-down` and `-status` do.  Knows nothing of LIFL but its
Dockerfile; the tests beside this folder know nothing of it but a KUBECONFIG.  In the order in
which they act: `binaries`, `images`, `layout`, `network`, `unit`, `node`, `control`, `addons`,
`up`, `down`, `status`.
"""
