"""Vanilla Knative on a cluster: the aggregator as plain Services behind a Broker and Triggers.

Why: the local *vanilla* side stands in for Knative; this one is Knative, on the cluster that
``KUBECONFIG`` names: the same image, the stock autoscaler and scheduler, queue-proxy, and a Broker
by which every payload travels by value. ``python -m bench.compare.knative`` plays the same load
on it and on LIFL as it is installed there. It must not install Knative, nor LIFL.
"""
