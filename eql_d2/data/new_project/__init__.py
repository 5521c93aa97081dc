"""From a folder of annotations to a config that trains, with the reasons in its comments."""

from eql_d2.data.new_project.start import NewProject, start_project

__all__ = ["NewProject", "start_project"]
