"""Tests of what makes files of a program."""
