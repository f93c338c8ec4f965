# SPDX-License-Identifier: Apache-2.0
"""
How the words of a command line and the entries of a run file are read.

May enter: what turns them into options and says what is wrong with them; a command is a file of the folder above.
"""
